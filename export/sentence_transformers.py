"""The layout of a sentence-transformers folder, read from its files (the library itself is not needed)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_infer.errors import ExportError

POOLING_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
# The names under which a prompt for one side may be kept (as encode_query and encode_document look for them).
PROMPT_NAMES = {"question": ("query",), "passage": ("document", "passage", "corpus")}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a sentence-transformers folder says.

    Attributes:
        body: the folder of the transformer.
        pooling: "mean" or "cls".
        normalise: whether vectors are brought to length 1.
        max_length: tokens per text, or None.
        lower_case: whether text is lower-cased before its tokenizer sees it.
        similarity: "cosine", "dot" or None where it does not say.
        prompts: text put before every text, by name.
        default_prompt: name of the prompt for both sides, or None.
    """

    body: Path
    pooling: str
    normalise: bool
    max_length: int | None
    lower_case: bool
    similarity: str | None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    def prefix(self, role: str) -> str:
        """The text put before every text of a side, "question" or "passage"."""
        names = (*PROMPT_NAMES[role], self.default_prompt)
        return next((self.prompts[n] for n in names if n is not None and n in self.prompts), "")


def is_sentence_transformers(folder: Path) -> bool:
    """Whether a folder has this layout."""
    return (folder / "modules.json").exists()


def read_layout(folder: Path) -> Layout:
    """Read the layout.

    Raises:
        ExportError: a module or a pooling mode that is not supported; the message names it.
    """
    modules = {str(m["type"]).rsplit(".", 1)[-1]: str(m["path"]) for m in _read(folder / "modules.json")}
    unsupported = sorted(set(modules) - {"Transformer", "Pooling", "Normalize"})
    if unsupported:
        raise ExportError(
            f"{folder} has the module {unsupported[0]!r}: supported are Transformer, Pooling and Normalize"
        )
    if not {"Transformer", "Pooling"} <= set(modules):
        raise ExportError(f"{folder / 'modules.json'} lacks a Transformer or a Pooling module")
    body = folder / modules["Transformer"]
    settings = _read(body / "sentence_bert_config.json", {})
    declared = _read(folder / "config_sentence_transformers.json", {})
    return Layout(
        body=body,
        pooling=_pooling(folder / modules["Pooling"] / "config.json"),
        normalise="Normalize" in modules,
        max_length=settings.get("max_seq_length"),
        lower_case=bool(settings.get("do_lower_case")),
        similarity=declared.get("similarity_fn_name"),
        prompts={k: v for k, v in (declared.get("prompts") or {}).items() if v},
        default_prompt=declared.get("default_prompt_name"),
    )


def _pooling(path: Path) -> str:
    config = _read(path)
    chosen = [name for name, on in config.items() if name.startswith("pooling_mode_") and on]
    if len(chosen) != 1 or chosen[0] not in POOLING_MODES:
        raise ExportError(
            f"{path} asks for {', '.join(chosen) or 'no pooling'}: supported are {', '.join(POOLING_MODES)}"
        )
    return POOLING_MODES[chosen[0]]


def _read(path: Path, default: Any = None) -> Any:
    if default is not None and not path.exists():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from None
