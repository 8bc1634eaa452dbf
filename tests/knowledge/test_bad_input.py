"""Wrong input at the knowledge base's doors: a typed error with the reason, and nothing lost."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_infer.errors import CorruptIndexError
from rag_infer.knowledge import ChunkConfig, Chunker, Document, KnowledgeBase, Passage, Upserted
from rag_infer.knowledge.importers import Corpus
from tests.knowledge.encoders import HashingEncoder


def test_strings_of_other_classes(kb: KnowledgeBase) -> None:
    kb.upsert([Passage(np.str_("a"), np.str_("red"), metadata={"x": 1})])
    assert kb.get(["a"]) == [Passage("a", "red", metadata={"x": 1})]
    kb.check()


def test_vectors_that_are_too_long_to_have_a_score(kb: KnowledgeBase) -> None:
    vectors = np.full((1, 16), 1e38, dtype=np.float32)
    with pytest.raises(
        ValueError, match=r"a value of 1e\+38 in vectors of 16: those longer than 1e\+18 have no score"
    ):
        kb.upsert([Passage("a", "x")], vectors)
    with pytest.raises(ValueError, match="have no score"):
        kb.search_vectors(vectors, 1)


@pytest.mark.parametrize(
    "use",
    [
        lambda kb: kb.get(["a\ud800"]),
        lambda kb: kb.delete(["a\ud800"]),
        lambda kb: kb.search("red", where={"a\ud800": 1}),
        lambda kb: kb.update_metadata({"a\ud800": {}}),
    ],
)
def test_lone_surrogates(kb: KnowledgeBase, use: Any) -> None:
    kb.upsert([Passage("a", "red")])
    with pytest.raises(ValueError, match="lone surrogate"):
        use(kb)


def test_changes_of_metadata_that_are_none(kb: KnowledgeBase) -> None:
    kb.upsert([Passage("a", "red", metadata={"x": 1})])
    with pytest.raises(TypeError, match="changes must be a mapping of ids, got list"):
        kb.update_metadata(["a"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="metadata must be a mapping, got int"):
        kb.update_metadata({"nobody": 3})  # type: ignore[dict-item]
    assert kb.update_metadata({"a": {"x": 1}}) == ["a"]
    assert kb.revision == 1


def test_a_text_whose_holder_is_replaced_is_no_duplicate(kb: KnowledgeBase) -> None:
    kb.upsert([Passage("a", "text")])
    assert kb.upsert([Passage("a", "other"), Passage("b", "text")], deduplicate=True) == Upserted(
        added=1, replaced=1
    )
    assert [p and p.text for p in kb.get(["a", "b"])] == ["other", "text"]


@pytest.mark.parametrize("version", ["0", "²", '"2"', ""])
def test_a_format_version_that_is_none(tmp_path: Path, version: str) -> None:
    KnowledgeBase.create(tmp_path / "kb", encoder=HashingEncoder()).close()
    connection = sqlite3.connect(tmp_path / "kb" / "record.sqlite", isolation_level=None)
    connection.execute("UPDATE settings SET value = ? WHERE name = 'format_version'", (version,))
    connection.close()
    with pytest.raises(CorruptIndexError, match="format_version"):
        KnowledgeBase.open(tmp_path / "kb")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"rows_per_segment": 2.5}, TypeError, "must be an integer, got 2.5"),
        ({"rows_per_segment": True}, TypeError, "must be an integer, got True"),
        ({"threads": 1.5}, TypeError, "threads must be an integer, got 1.5"),
        ({"encoder": HashingEncoder(similarity="euclid")}, ValueError, "'dot' or 'cosine', got 'euclid'"),
        ({"encoder": HashingEncoder(0)}, ValueError, "a width of 1 or more, got 0"),
    ],
)
def test_settings_that_cannot_be(
    tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        KnowledgeBase.create(tmp_path / "kb", **{"encoder": HashingEncoder(), **settings})


def test_the_working_folder_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kb").mkdir()
    monkeypatch.chdir(tmp_path / "kb")
    with KnowledgeBase.create(".", encoder=HashingEncoder(), writer_timeout=float("inf")) as kb:
        kb.upsert([Passage("a", "red")])
        (tmp_path / "copy").mkdir()
        monkeypatch.chdir(tmp_path / "copy")
        kb.backup(".")
    with KnowledgeBase.open(tmp_path / "copy", encoder=HashingEncoder()) as copy:
        assert len(copy) == 1


@pytest.mark.parametrize("damaged", [b"re\xff", b"\xe4\xb8", b"\xc3("])
def test_text_in_the_record_that_is_no_unicode(kb: KnowledgeBase, tmp_path: Path, damaged: bytes) -> None:
    kb.upsert([Passage("a", "red")])
    with contextlib.closing(sqlite3.connect(kb.folder / "record.sqlite")) as record, record:
        record.execute("UPDATE passages SET text = CAST(? AS TEXT)", (damaged,))
    for read in (kb.check, lambda: kb.get(["a"]), lambda: kb.export_jsonl(tmp_path / "out.jsonl")):
        with pytest.raises(CorruptIndexError, match=r"record.sqlite is damaged"):
            read()


def test_ids_and_titles_that_are_too_long(kb: KnowledgeBase, tmp_path: Path) -> None:
    # What is escaped in JSON, six bytes for each, is the worst that there can be: it is read back.
    longest = Passage("\x01" * 10_000, "\x01" * 1_000_000, "\x01" * 100_000, {"x": "y" * 999_990})
    kb.upsert([longest])
    kb.export_jsonl(tmp_path / "out.jsonl")
    with Corpus([tmp_path / "out.jsonl"]) as corpus:
        assert list(corpus) == [longest]
    for passage, message in [
        (
            {"id": "é" * 5_001, "text": "t"},
            r"'é{200}\.\.\.' has an id of 10,002 bytes, over 10,000: shorten it",
        ),
        (
            {"id": "a", "text": "t", "title": "t" * 100_001},
            "'a' has a title of 100,001 bytes, over 100,000: shorten",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            Passage(**passage)
        with pytest.raises(ValueError, match=message):
            Document(**passage)
    chunker = Chunker(ChunkConfig(size=1, unit="words", sentences=False))
    with pytest.raises(ValueError, match="has an id of 10,001 bytes"):
        chunker.chunks(Document("d" * 9_999, "a b"))
