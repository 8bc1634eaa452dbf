"""What of a sentence-transformers folder is not supported, or contradicts the caller."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag_infer.errors import ExportError
from rag_infer.export import export_bundle
from tests.export.checkpoints import write_json, write_sentence_transformers


def with_module(kind: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text())
        modules.append({"idx": 3, "name": "3", "path": "3", "type": f"sentence_transformers.models.{kind}"})
        write_json(folder / "modules.json", modules)

    return change


REFUSED: dict[str, tuple[Callable[[Path], Any], dict[str, str], str]] = {
    "a dense layer": (with_module("Dense"), {}, "has the module 'Dense': supported are Transformer, Pooling"),
    "no modules": (lambda c: write_json(c / "modules.json", []), {}, "lacks a Transformer or a Pooling"),
    "no JSON": (lambda c: (c / "modules.json").write_text("{"), {}, r"modules\.json cannot be read"),
    "no pooling config": (
        lambda c: (c / "1_Pooling" / "config.json").unlink(),
        {},
        r"config\.json cannot be read",
    ),
    "another pooling": (lambda c: None, {"pooling": "cls"}, "was trained with mean pooling, not cls"),
    "another similarity": (
        lambda c: write_json(c / "config_sentence_transformers.json", {"similarity_fn_name": "euclidean"}),
        {},
        "asks for the similarity 'euclidean': supported are cosine and dot",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    change, settings, message = REFUSED[name]
    folder = tmp_path / "c"
    folder.mkdir()
    write_sentence_transformers(folder)
    change(folder)
    with pytest.raises(ExportError, match=message):
        export_bundle(tmp_path / "b", question_encoder=folder, **settings)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
