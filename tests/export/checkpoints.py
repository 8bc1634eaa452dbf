"""Tiny random checkpoints of every kind that can be exported, written as transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz?."]
WORDS += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
TEXTS = ["who?", "a river runs to the sea.", "", "x" * 60, "the red cat is on the mat. the dog is not."]


def write_tokenizer(folder: Path, *, do_lower_case: bool = True) -> None:
    """A WordPiece tokenizer of single letters."""
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), do_lower_case=do_lower_case).save_pretrained(
        folder
    )


def write_bert(folder: Path, *, seed: int = 0, pooler: bool = True, **sizes: Any) -> BertModel:
    """A plain BERT folder."""
    torch.manual_seed(seed)
    model = BertModel(BertConfig(**{**SIZES, **sizes}), add_pooling_layer=pooler).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def write_sentence_transformers(
    folder: Path,
    *,
    pooling: str = "mean",
    normalise: bool = True,
    max_length: int = 16,
    prompts: dict[str, str] | None = None,
) -> BertModel:
    """A sentence-transformers folder over BERT."""
    model = write_bert(folder, seed=1)
    kinds = ["Transformer", "Pooling", "Normalize"][: 3 if normalise else 2]
    paths = dict(zip(kinds, ["", "1_Pooling", "2_Normalize"], strict=False))
    modules = [
        {"idx": i, "name": str(i), "path": paths[kind], "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "1_Pooling").mkdir()
    write_json(folder / "modules.json", modules)
    modes = {
        f"pooling_mode_{mode}": mode.startswith(pooling)
        for mode in ("cls_token", "mean_tokens", "max_tokens")
    }
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **modes})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts or {}})
    return model


def write_dpr(folder: Path, side: str, *, projection_dim: int = 0) -> DPRQuestionEncoder | DPRContextEncoder:
    """A DPR encoder: side "question" or "passage"."""
    torch.manual_seed(2 if side == "question" else 3)
    kind = DPRQuestionEncoder if side == "question" else DPRContextEncoder
    model = kind(DPRConfig(**SIZES, projection_dim=projection_dim)).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def write_json(path: Path, value: Any) -> None:
    """A JSON file."""
    path.write_text(json.dumps(value), encoding="utf-8")
