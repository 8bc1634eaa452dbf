"""The ``tokenizer.json`` of a bundle's part."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import tokenizers
from transformers import AutoTokenizer, MarianTokenizer, PreTrainedTokenizerFast, SiglipTokenizer
from transformers.convert_slow_tokenizer import SpmConverter

from rag_infer.errors import ExportError
from rag_infer.export.checkpoint import Checkpoint
from rag_infer.export.marian_tokenizer import MarianConverter
from rag_infer.export.siglip_tokenizer import SiglipConverter

# Any of these makes a folder one that has a tokenizer.
TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model"),
    *("spiece.model", "sentencepiece.bpe.model", "source.spm"),
)


def load_tokenizer(checkpoint: Checkpoint, **settings: Any) -> Any:
    """The checkpoint's own fast tokenizer of transformers, as its tokenizer_config.json says (cased or not, ...).

    Marian's and SigLIP's, which have none, are converted.

    Args:
        checkpoint: the checkpoint.
        settings: for `AutoTokenizer.from_pretrained`.

    Raises:
        ExportError: there is none, or none that has a fast form.
    """
    folder = checkpoint.folder
    if folder is not None and not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise ExportError(f"{folder} has no tokenizer: expected one of {', '.join(TOKENIZER_FILES)}")
    try:
        with warnings.catch_warnings():
            # Marian's normaliser of punctuation, which transformers loads and never calls.
            warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.source, use_fast=True, **settings)
    except Exception as error:  # many kinds, from three libraries
        raise ExportError(f"the tokenizer of {checkpoint.source} cannot be loaded: {error}") from error
    converter = _converter(tokenizer)
    if converter is not None:
        return PreTrainedTokenizerFast(
            tokenizer_object=converter(tokenizer).converted(),
            **{name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ExportError(
            f"the tokenizer of {checkpoint.source} has no fast form ({type(tokenizer).__name__})"
        )
    return tokenizer


def _converter(tokenizer: Any) -> type[SpmConverter] | None:
    """What makes a fast form of a tokenizer for which transformers has none; None for others."""
    if isinstance(tokenizer, MarianTokenizer) and not tokenizer.separate_vocabs:
        return MarianConverter
    return SiglipConverter if isinstance(tokenizer, SiglipTokenizer) else None


def read_tokenizer_file(path: Path) -> tokenizers.Tokenizer:
    """A ``tokenizer.json`` beside a checkpoint that has no tokenizer_config.json.

    Raises:
        ExportError: it cannot be read.
    """
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ExportError(f"{path} cannot be read as a tokenizer: {error}") from None


def unpadded(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy without padding or truncation, which are the runtime's affair."""
    copy = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy
