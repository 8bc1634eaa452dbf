"""Small random checkpoints of every encoder-decoder family, and of transformers' RAG classes, as folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers, processors

VOCAB = 96
TINY: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
    "init_std": 0.5,
    "forced_eos_token_id": None,
}
TINY_T5: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "d_kv": 6,
    "num_heads": 4,
    "num_layers": 2,  # as many as the decoder's: transformers' cache takes no other
    "d_ff": 24,
    "decoder_start_token_id": 0,
}
FAMILIES: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "bart": ("BartConfig", "BartForConditionalGeneration", TINY),
    "mbart": (
        "MBartConfig",
        "MBartForConditionalGeneration",
        {**TINY, "scale_embedding": True, "decoder_start_token_id": 5},
    ),
    "pegasus": (
        "PegasusConfig",
        "PegasusForConditionalGeneration",
        {**TINY, "activation_function": "relu", "scale_embedding": True},
    ),
    "marian": (
        "MarianConfig",
        "MarianMTModel",
        {
            **TINY,
            "activation_function": "swish",
            "pad_token_id": VOCAB - 1,
            "decoder_start_token_id": VOCAB - 1,
        },
    ),
    "t5": ("T5Config", "T5ForConditionalGeneration", TINY_T5),
    "flan-t5": (
        "T5Config",
        "T5ForConditionalGeneration",
        {**TINY_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
}
WORDS = (
    "who",
    "where",
    "when",
    "what",
    "built",
    "is",
    "the",
    "a",
    "of",
    "in",
    "river",
    "tower",
    "city",
    "capital",
    "flows",
    "through",
    "longest",
    "old",
    "largest",
    "/",
    "//",
)


def make_model(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """A random model of a family, in evaluation mode."""
    config, model, settings = FAMILIES[family]
    torch.manual_seed(seed)
    made = getattr(transformers, model)(getattr(transformers, config)(**{**settings, **changes})).eval()
    if hasattr(made, "final_logits_bias"):
        made.final_logits_bias.copy_(torch.randn_like(made.final_logits_bias))
    return made


def make_tokenizer(*, bos: int | None, eos: int, size: int = VOCAB) -> tokenizers.Tokenizer:
    """Words to ids; texts are put between begin and end of text."""
    vocabulary = {f"<{i}>": i for i in range(6)} | {word: i + 6 for i, word in enumerate(WORDS)}
    vocabulary |= {f"w{i}": i for i in range(len(vocabulary), size)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<3>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {i: name for name, i in vocabulary.items()}
    around = [eos] if bos is None else [bos, eos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join([*(names[i] for i in around[:-1]), "$A", names[eos]]),
        special_tokens=[(names[i], i) for i in around],
    )
    tokenizer.add_special_tokens([tokenizers.AddedToken(names[i], special=True) for i in range(3)])
    return tokenizer


def write_seq2seq(folder: Path, family: str, *, seed: int = 0, **changes: Any) -> Any:
    """A checkpoint of a family; returns the model."""
    model = make_model(family, seed=seed, **changes)
    model.save_pretrained(folder)
    save_tokenizer(folder, model)
    return model


def save_tokenizer(folder: Path, model: Any, *, size: int = VOCAB) -> None:
    """A tokenizer for a model."""
    config = model.config
    tokenizer = make_tokenizer(bos=config.bos_token_id, eos=config.eos_token_id, size=size)
    names = {i: name for name, i in tokenizer.get_vocab().items()}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=names[config.eos_token_id], pad_token=names[config.pad_token_id]
    ).save_pretrained(folder)


def write_rag(
    folder: Path,
    architecture: str,
    family: str,
    *,
    seed: int = 0,
    generation: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Any:
    """A RAG checkpoint with its two tokenizers, vectors 768 wide; returns the model.

    Args:
        folder: where it goes.
        architecture: one of transformers' RAG classes.
        family: the generator's.
        seed: of the weights.
        generation: generation settings.
        changes: settings of the RagConfig.
    """
    generator = make_model(family, seed=seed)
    encoder = transformers.DPRQuestionEncoder(dpr_config())
    config = transformers.RagConfig.from_question_encoder_generator_configs(
        encoder.config, generator.config, **changes
    )
    model = getattr(transformers, architecture)(config=config, question_encoder=encoder, generator=generator)
    for holder in (model, generator):
        if holder.generation_config is not None:  # RAG-Sequence takes its generator's
            holder.generation_config.update(**(generation or {}))
    model.eval().save_pretrained(folder)
    save_tokenizer(folder / "generator_tokenizer", generator)
    save_word_pieces(folder / "question_encoder_tokenizer")
    return model


def write_passage_encoder(folder: Path, *, seed: int = 1) -> Any:
    """A DPR passage encoder whose vectors are 768 wide; returns the model."""
    torch.manual_seed(seed)
    model = transformers.DPRContextEncoder(dpr_config()).eval()
    model.save_pretrained(folder)
    save_word_pieces(folder)
    return model


def dpr_config() -> Any:
    """One layer, 768 wide."""
    return transformers.DPRConfig(
        vocab_size=VOCAB,
        hidden_size=768,
        num_hidden_layers=1,
        num_attention_heads=12,
        intermediate_size=32,
        max_position_embeddings=40,
    )


def save_word_pieces(folder: Path) -> None:
    """BERT's tokenizer with our words, lower-cased."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz?.,"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *letters[1:]]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    transformers.BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
