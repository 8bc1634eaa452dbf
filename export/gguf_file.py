"""GGUF files: a Llama model and its tokenizer, with every tensor and every setting accounted for.

transformers can read GGUF too, but it drops what it does not know without a word: scaled rotary frequencies,
the pre-tokenizer's name, whether text begins with a special token. Here what is not known is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from tokenizers import Regex, decoders, models, pre_tokenizers
from transformers import LlamaConfig

from rag_infer.errors import ExportError

# What each setting under "llama." is in `LlamaConfig`; None: checked elsewhere, or of no consequence.
SETTINGS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "attention.value_length": None,
    "rope.dimension_count": None,
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}

GLOBAL_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

CONTROL_TOKEN, USER_DEFINED_TOKEN = 3, 4

# How llama.cpp cuts text into words, by the name it has in a GGUF file.
_GPT2_WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS: Mapping[str, Callable[[], Any]] = {
    "gpt-2": lambda: _GPT2_WORDS,
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _GPT2_WORDS]),
    "llama-bpe": lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA3_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


class GgufFile:
    """A GGUF file of the Llama architecture.

    Raises:
        ExportError: no GGUF file, or another architecture.
    """

    def __init__(self, path: Path) -> None:
        import gguf

        try:
            self._reader = gguf.GGUFReader(str(path))
        except Exception as error:  # the reader raises whatever its numpy reads run into
            raise ExportError(f"{path} is not a GGUF file: {error}") from None
        self.path = path
        architecture = self._field("general.architecture")
        if architecture != "llama":
            raise ExportError(f"{path} has the architecture {architecture!r}: only 'llama' is supported")

    def config(self) -> LlamaConfig:
        """The model's settings.

        Raises:
            ExportError: a setting this module does not know, such as a scaled rotary embedding.
        """
        found: dict[str, Any] = {}
        for key in self._reader.fields:
            if not key.startswith("llama."):
                continue
            name = key.removeprefix("llama.")
            if name not in SETTINGS:
                raise ExportError(
                    f"{self.path} has the setting {key} = {self._field(key)!r}, which is not supported"
                )
            if SETTINGS[name] is not None:
                found[str(SETTINGS[name])] = self._field(key)
        found.setdefault("vocab_size", len(self._field("tokenizer.ggml.tokens") or ()))
        tied = all(t.name != "output.weight" for t in self._reader.tensors)
        tensors = {t.name for t in self._reader.tensors}
        config = LlamaConfig(
            **found,
            tie_word_embeddings=tied,
            attention_bias="blk.0.attn_q.bias" in tensors,
            mlp_bias="blk.0.ffn_up.bias" in tensors,
            bos_token_id=self._field("tokenizer.ggml.bos_token_id"),
            eos_token_id=self.eos_token_ids() or None,
            pad_token_id=self._field("tokenizer.ggml.padding_token_id"),
        )
        rotated = self._field("llama.rope.dimension_count") or config.head_dim
        if rotated != config.head_dim:
            raise ExportError(
                f"{self.path} rotates {rotated} of {config.head_dim} dimensions, which is not supported"
            )
        return config

    def weights(self, config: LlamaConfig) -> dict[str, torch.Tensor]:
        """Every tensor, dequantised to float32, under its transformers name.

        Raises:
            ExportError: a tensor whose name is not known.
        """
        import gguf

        weights = {}
        for tensor in self._reader.tensors:
            array = np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
            if ".attn_q." in tensor.name:
                array = halves_together(array, config.num_attention_heads)
            elif ".attn_k." in tensor.name:
                array = halves_together(array, config.num_key_value_heads)
            weights[self._transformers_name(tensor.name)] = torch.from_numpy(np.ascontiguousarray(array))
        return weights

    def eos_token_ids(self) -> list[int]:
        """The tokens that end a text or a turn."""
        found = [self._field(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
        return list(dict.fromkeys(int(i) for i in found if i is not None))

    def bos_token_id(self) -> int | None:
        """The token every text begins with, or None."""
        if not self._field("tokenizer.ggml.add_bos_token"):
            return None
        return int(self._field("tokenizer.ggml.bos_token_id"))

    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer: byte-level BPE as GPT-2's, with the model's own way of cutting words.

        Raises:
            ExportError: another kind of tokenizer, or a way of cutting that is not known.
        """
        remedy = "put the model's tokenizer.json beside the file"
        kind, words = self._field("tokenizer.ggml.model"), self._field("tokenizer.ggml.pre")
        if kind != "gpt2" or words not in PRE_TOKENIZERS:
            raise ExportError(
                f"{self.path} has a tokenizer of model {kind!r} and pre-tokenizer {words!r}; known are 'gpt2' "
                f"with {', '.join(map(repr, PRE_TOKENIZERS))}: {remedy}"
            )
        tokens: list[str] = self._field("tokenizer.ggml.tokens")
        pairs = self._field("tokenizer.ggml.merges")
        kinds = self._field("tokenizer.ggml.token_type")
        if not tokens or not pairs or not kinds or len(kinds) != len(tokens):
            raise ExportError(f"{self.path} lacks its tokenizer's tokens, their types or merges: {remedy}")
        merges = [tuple(m.split(" ", 1)) for m in pairs]
        vocabulary = {token: i for i, token in enumerate(tokens)}
        # As llama.cpp: a word that is a token of Llama 3's is that token, whatever the merges make of it.
        whole_words = words == "llama-bpe"
        bpe = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=whole_words)
        tokenizer = tokenizers.Tokenizer(bpe)
        tokenizer.pre_tokenizer = PRE_TOKENIZERS[words]()
        tokenizer.decoder = decoders.ByteLevel()
        for special, number in ((True, CONTROL_TOKEN), (False, USER_DEFINED_TOKEN)):
            added = [t for t, k in zip(tokens, kinds, strict=True) if k == number]
            entries = [tokenizers.AddedToken(t, normalized=False, special=special) for t in added]
            (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(entries)
        return tokenizer

    def _field(self, key: str) -> Any:
        field = self._reader.fields.get(key)
        return None if field is None else field.contents()

    def _transformers_name(self, name: str) -> str:
        if name in GLOBAL_TENSORS:
            return GLOBAL_TENSORS[name]
        match name.split("."):
            case ["blk", layer, part, kind] if part in LAYER_TENSORS:
                return f"model.layers.{layer}.{LAYER_TENSORS[part]}.{kind}"
        raise ExportError(
            f"{self.path} has the tensor {name!r}, which the Llama architecture has no place for"
        )


def halves_together(array: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of a query or key projection from GGUF's order to transformers'.

    GGUF has the two numbers that are rotated into one another side by side, transformers half a head apart.

    >>> halves_together(np.arange(8, dtype=np.float32)[:, None], heads=2)[:, 0].tolist()
    [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
    """
    paired = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
    return paired.swapaxes(1, 2).reshape(array.shape)
