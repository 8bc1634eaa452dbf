"""A value of another type than was written, as one flipped bit in the header of a row makes it: a typed error."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rag_infer.errors import RagInferError
from rag_infer.knowledge import KnowledgeBase, Passage
from tests.knowledge.byte_flips import answers, build, build_with_images, encoder_of
from tests.knowledge.other_types import allow_null, changed, changes


@pytest.fixture(scope="module", params=[build, build_with_images])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A knowledge base with everything, in one file with no log, whose columns may be null."""
    kb: Path = request.param(tmp_path_factory.mktemp("types") / "kb")
    allow_null(kb)
    return kb


def test_a_value_of_another_type_is_harmless_or_a_typed_error(written: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(written, copy)
    expected = answers(copy)
    outcomes = {"harmless": 0, "error": 0}
    wrong = []
    for change in changes(written):
        shutil.rmtree(copy)
        shutil.copytree(written, copy)
        if not changed(copy, change):
            continue
        for look in (answers, _unverified, _checked, _written_to, _repaired):
            try:
                found = look(copy)
            except RagInferError:
                outcomes["error"] += 1
            except Exception as error:
                wrong.append(f"{look.__name__} {change}: {type(error).__name__}: {error}")
            else:
                outcomes["harmless"] += 1
                if look is answers and found != expected:
                    wrong.append(
                        f"{change}: other {[name for name in expected if found[name] != expected[name]]}"
                    )
    assert not wrong, "\n".join(wrong)
    assert outcomes["error"] > 1500, "else little was changed"
    assert outcomes["harmless"] > 200


def _unverified(kb: Path) -> None:
    answers(kb, verify="never")


def _checked(kb: Path) -> None:
    with KnowledgeBase.open(kb, encoder=encoder_of(kb), threads=1, verify="never") as opened:
        opened.check()


def _written_to(kb: Path) -> None:
    with KnowledgeBase.open(kb, encoder=encoder_of(kb), threads=1, verify="never") as opened:
        opened.upsert([Passage("p1", "word1 text", metadata={"odd": 3}), Passage("p2", "another text")])
        opened.delete(["p3", "p22"])
        opened.compact()


def _repaired(kb: Path) -> None:
    KnowledgeBase.repair(kb, encoder=encoder_of(kb), threads=1)
