"""A knowledge base of format 1 is brought to the present one when it is opened, without encoding anything again."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError, RagInferError
from rag_infer.knowledge import KnowledgeBase, Passage, Upserted
from tests.knowledge.encoders import HashingEncoder
from tests.knowledge.other_types import allow_null, changed, changes

FORMAT_1 = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL, passages INTEGER NOT NULL, rows INTEGER NOT NULL, generation INTEGER NOT NULL,
    snapshot TEXT NOT NULL, snapshot_sha256 TEXT NOT NULL);
CREATE TABLE passages (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, text TEXT NOT NULL,
    metadata TEXT NOT NULL, digest BLOB NOT NULL);
CREATE TABLE dead (row INTEGER PRIMARY KEY, revision INTEGER NOT NULL);
CREATE INDEX dead_by_revision ON dead (revision);
CREATE TABLE blocks (
    first_row INTEGER PRIMARY KEY, rows INTEGER NOT NULL, checksum BLOB NOT NULL, encoded INTEGER NOT NULL);
CREATE TABLE labels (digest BLOB NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (digest, row)) WITHOUT ROWID;
"""

# Row 0 was deleted, row 3 has a vector that was given.
PASSAGES = {
    1: Passage("b", "green sea", title="Sea", metadata={"kind": 1}),
    2: Passage("c", "blue sky", metadata={"kind": 2, "tags": ["x"]}),
    3: Passage("d", "given"),
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder as rag_infer wrote it in format 1."""
    folder = tmp_path / "kb"
    (folder / "vectors").mkdir(parents=True)
    (folder / "hnsw").mkdir()
    encoder = HashingEncoder()
    vectors = encoder.encode(["dead", "Sea. green sea", "blue sky", "another text"])
    (folder / "vectors" / "000001-000000.f32").write_bytes(vectors.tobytes())
    settings = {
        "format_version": 1,
        "created_by": "rag_infer 0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "encoder": encoder.fingerprint,
        "dim": 16,
        "similarity": "dot",
        "index": "auto",
        "rows_per_segment": 1000,
    }
    connection = sqlite3.connect(folder / "record.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(FORMAT_1)
    connection.executemany(
        "INSERT INTO settings VALUES (?, ?)", [(n, json.dumps(v)) for n, v in settings.items()]
    )
    connection.execute("INSERT INTO state VALUES (1, 7, 3, 4, 1, '', '')")
    for row, p in PASSAGES.items():
        values = (row, p.id, p.title, p.text, json.dumps(dict(p.metadata)), b"digest")
        connection.execute("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?)", values)
    connection.execute("INSERT INTO dead VALUES (0, 5)")
    for first, rows, encoded in ((0, 3, True), (3, 1, False)):
        checksum = hashlib.sha256(vectors[first : first + rows].tobytes()).digest()
        connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", (first, rows, checksum, encoded))
    connection.close()
    return folder


def test_everything_is_there_and_nothing_is_encoded(old: Path) -> None:
    encoder = HashingEncoder()
    with KnowledgeBase.open(old, encoder=encoder) as kb:
        assert kb.get(["a", "b", "c", "d"]) == [None, *PASSAGES.values()]
        kb.check()
        assert (kb.revision, len(kb), kb.settings.format_version) == (7, 3, 3)
        assert kb.upsert(list(PASSAGES.values())[:2]) == Upserted(unchanged=2)
        assert encoder.encoded == 0
        assert [p.id for p in kb.search("green sea", k=5, where={"kind": {"$gte": 1}})] == ["b", "c"]
        kb.upsert([Passage("e", "new")])
        kb.compact()
        kb.check()
    with KnowledgeBase.open(old, encoder=HashingEncoder()) as kb:
        assert len(kb) == 4


def test_a_failed_upgrade_changes_nothing(old: Path) -> None:
    vectors = old / "vectors" / "000001-000000.f32"
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:100])
    with pytest.raises(CorruptIndexError, match="has 100 bytes, 256 are recorded"):
        KnowledgeBase.open(old, encoder=HashingEncoder())
    vectors.write_bytes(whole)
    with KnowledgeBase.open(old, encoder=HashingEncoder()) as kb:
        assert len(kb) == 3


@pytest.mark.filterwarnings("ignore:corrupt index:rag_infer.RagInferWarning")
def test_a_damaged_older_record_is_a_typed_error_or_upgraded(old: Path, tmp_path: Path) -> None:
    allow_null(old)
    outcomes = {"opened": 0, "error": 0}
    copy = tmp_path / "copy"
    for change in changes(old):
        shutil.copytree(old, copy)
        if changed(copy, change):
            try:
                with KnowledgeBase.open(copy, encoder=HashingEncoder(), verify="wait") as kb:
                    kb.search("green sea", k=5)
                outcomes["opened"] += 1
            except RagInferError:
                outcomes["error"] += 1
        shutil.rmtree(copy)
    assert outcomes["error"] > 50, outcomes
    assert outcomes["opened"] > 10, outcomes


def test_an_older_folder_that_is_being_written_says_who_writes(old: Path) -> None:
    from rag_infer.knowledge.lock import WriterLock

    with WriterLock(old / "lock", timeout=0).hold(), pytest.raises(KnowledgeBaseError, match="process"):
        KnowledgeBase.open(old, encoder=HashingEncoder(), writer_timeout=0)
