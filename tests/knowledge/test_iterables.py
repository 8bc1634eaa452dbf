"""Passages and ids may come from any iterable, one that can be read only once too."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_infer.bundle import Bundle
from rag_infer.errors import EncoderMismatchError
from rag_infer.knowledge import KnowledgeBase, Passage
from tests.knowledge.tiny_bundle import make_tiny_bundle


def test_generators_are_read_once(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    passages = [Passage(id=f"p{i}", title="", text=f"the red cat {i}") for i in range(4)]
    with KnowledgeBase.create(tmp_path / "kb", bundle=bundle) as base:
        assert base.upsert(p for p in passages).added == 4
        found = base.get(i for i in ["p1", "p9"])
        assert [p and p.id for p in found] == ["p1", None]
        assert base.delete(i for i in ["p1", "p2", "p9"]) == ["p1", "p2"]
        assert len(base) == 2


def test_bundle_of_another_encoder(tmp_path: Path) -> None:
    bundle, other = make_tiny_bundle(tmp_path / "bundle"), make_tiny_bundle(tmp_path / "other", seed=1)
    with KnowledgeBase.create(tmp_path / "kb", bundle=bundle) as base:
        base.check_bundle(Bundle.load(bundle))
        with pytest.raises(EncoderMismatchError):
            base.check_bundle(Bundle.load(other))


@pytest.mark.parametrize("question", ["", "  ", "\x00\x01", "\udcff"])
def test_a_question_without_a_character(tmp_path: Path, question: str) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    with (
        KnowledgeBase.create(tmp_path / "kb", bundle=bundle) as base,
        pytest.raises(ValueError, match="the question is empty"),
    ):
        base.search(question)
