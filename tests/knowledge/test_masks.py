"""Masks of conditions are looked up once for a revision, and forgotten when there are too many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rag_infer.knowledge import KnowledgeBase, Passage
from rag_infer.knowledge import fields as fields_module
from rag_infer.knowledge import search as search_module
from rag_infer.knowledge.conditions import Equals
from rag_infer.knowledge.masks import Masks
from tests.knowledge.encoders import HashingEncoder


def filled(folder: Path) -> KnowledgeBase:
    knowledge_base = KnowledgeBase.create(folder, encoder=HashingEncoder())
    knowledge_base.upsert([Passage(f"p{i}", f"text {i}", metadata={"even": i % 2 == 0}) for i in range(20)])
    return knowledge_base


def test_a_filter_is_looked_up_once_for_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = []
    real = fields_module.fulfilling

    def counted(connection: object, condition: object, rows: int) -> NDArray[np.bool_]:
        looked_up.append(condition)
        return real(connection, condition, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(search_module, "fulfilling", counted)
    with filled(tmp_path / "kb") as kb:
        once = kb.search("text 3", k=20, where={"even": True})
        again = kb.search("text 3", k=20, where={"even": True})
        assert len(looked_up) == 1
        assert [p.id for p in once] == [p.id for p in again]
        assert {p.id for p in again} == {f"p{i}" for i in range(0, 20, 2)}
        # 1 is another condition than True, and fulfilled by none.
        assert kb.search("text 3", k=20, where={"even": 1}) == []
        assert len(looked_up) == 2
        kb.update_metadata({"p4": {"even": False}, "p5": {"even": True}})
        changed = {p.id for p in kb.search("text 3", k=20, where={"even": True})}
        assert changed == {p.id for p in once} - {"p4"} | {"p5"}
        kb.delete(["p5"])
        assert {p.id for p in kb.search("text 3", k=20, where={"even": True})} == changed - {"p5"}
        assert len(looked_up) == 4


def test_the_least_recently_used_are_forgotten() -> None:
    masks = Masks(limit=250)
    made = []

    def mask_of(value: int) -> NDArray[np.bool_]:
        def make() -> NDArray[np.bool_]:
            made.append(value)
            mask = np.zeros(100, dtype=np.bool_)
            mask[value] = True
            return mask

        return masks.of(Equals("field", value), make)

    for value in (1, 2, 1, 3, 1):  # 2 goes when 3 comes
        assert np.flatnonzero(mask_of(value)).tolist() == [value]
    assert made == [1, 2, 3]
    mask_of(2)
    assert made == [1, 2, 3, 2]
    with pytest.raises(ValueError, match="read-only"):
        mask_of(2)[0] = True


def test_one_is_kept_however_large() -> None:
    masks = Masks(limit=1)
    first = masks.of(Equals("field", 1), lambda: np.ones(100, dtype=np.bool_))
    assert masks.of(Equals("field", 1), lambda: np.zeros(100, dtype=np.bool_)) is first
