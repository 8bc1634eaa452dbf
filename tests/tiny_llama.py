"""A tiny random Llama checkpoint with its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# transformers takes a pad id of 0 for none, so the first special token is another.
SPECIAL = ["<begin>", "<pad>", "<end>", "<turn>"]
BOS, PAD, END, TURN = range(4)
VOCAB = 300
CORPUS = ["Passage: the river runs deep to the sea.", "Question: where is the red cat? Answer: on the mat."]


def make_tokenizer() -> tokenizers.Tokenizer:
    """Byte-level BPE: 4 special tokens, 256 bytes, 40 merges."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        min_frequency=1,
        special_tokens=SPECIAL,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def write_llama(folder: Path, *, seed: int = 5, **settings: Any) -> LlamaForCausalLM:
    """A Llama folder; its next tokens are well apart."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.4,
        "bos_token_id": BOS,
        "pad_token_id": PAD,
        "eos_token_id": END,
    }
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **settings})).eval()
    for name, value in model.named_parameters():
        if name.endswith("bias"):  # transformers begins with zeros
            torch.nn.init.normal_(value, std=0.4)
    model.save_pretrained(folder)
    names = dict(zip(("bos_token", "pad_token", "eos_token"), SPECIAL, strict=False))
    PreTrainedTokenizerFast(tokenizer_object=make_tokenizer(), **names).save_pretrained(folder)
    return model
