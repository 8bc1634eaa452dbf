"""What was altered on the disk is refused when a knowledge base is opened, and never given for what was written."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from rag_infer.errors import CorruptIndexError
from rag_infer.knowledge import KnowledgeBase, Passage
from rag_infer.knowledge.head import HEAD, read_head, write_head
from tests.knowledge.encoders import HashingEncoder


@pytest.fixture
def written(tmp_path: Path) -> Path:
    with KnowledgeBase.create(tmp_path / "kb", encoder=HashingEncoder()) as kb:
        kb.upsert(
            [Passage(f"p{i}", f"word{i} text", metadata={"odd": i % 2, "tags": ["a"]}) for i in range(20)]
        )
        kb.delete(["p3"])
    return tmp_path / "kb"


def alter(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / "record.sqlite", isolation_level=None)
    connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "UPDATE passages SET text = 'word8 text' WHERE id = 'p7'",
            "passage 'p7' in row 7 is not as it was written",
        ),
        (
            "UPDATE passages SET metadata = '{}' WHERE id = 'p7'",
            "passage 'p7' in row 7 is not as it was written",
        ),
        ("UPDATE passages SET row = 3 WHERE id = 'p7'", "passage 'p7' in row 3 is not as it was written"),
        ("DELETE FROM passages WHERE id = 'p7'", "18 passages"),
        ("DELETE FROM fields WHERE row = 7", "metadata fields are not those"),
        ("UPDATE fields SET value = 0 WHERE name = 'odd' AND row = 7", "metadata fields are not those"),
        ("INSERT INTO lexical (lexical) VALUES ('delete-all')", "index of words"),
        ("UPDATE dead SET revision = 1", "dead row 3 is not as it was written"),
        ("UPDATE dead SET row = 4", "dead row 4 is not as it was written"),
        ("UPDATE state SET rows = 19", "state is not as it was written"),
        (
            "UPDATE settings SET value = '17' WHERE name = 'rows_per_segment'",
            "settings are not as they were written",
        ),
        ("UPDATE blocks SET checksum = x'00'", "differ from their checksum"),
    ],
)
def test_an_altered_record_is_refused(written: Path, statement: str, message: str) -> None:
    alter(written, statement)
    with pytest.raises(CorruptIndexError, match=message):  # noqa: SIM117
        with KnowledgeBase.open(written, encoder=HashingEncoder()) as kb:
            kb.search("word7", k=3)


def test_an_altered_vector_is_not_searched(written: Path) -> None:
    path = written / "vectors" / "000001-000000.f32"
    data = bytearray(path.read_bytes())
    data[7 * 64 + 3] ^= 0x01
    path.write_bytes(data)
    with KnowledgeBase.open(written, encoder=HashingEncoder()) as kb:
        for _ in range(2):
            with pytest.raises(
                CorruptIndexError, match="the vectors of rows 0 to 19 differ from their checksum"
            ):
                kb.search("word1", k=3)
            with pytest.raises(CorruptIndexError, match="differ from their checksum"):
                kb.get(["p1"])
    # Whoever asks for no verification gets the passages that are right, and an error for those that are not.
    with KnowledgeBase.open(written, encoder=HashingEncoder(), verify="never") as kb:
        assert [p.id for p in kb.get(["p7"]) if p] == ["p7"]
        with pytest.raises(CorruptIndexError, match=r"vector or a metadata field of passage 'p7' in row 7"):
            kb.search("word7", k=20)
    assert KnowledgeBase.repair(written, encoder=HashingEncoder()).repaired == 20
    with KnowledgeBase.open(written, encoder=HashingEncoder(), verify="wait") as kb:
        assert kb.search("word7", k=1)[0].id == "p7"


def test_derived_tables_are_made_again(written: Path) -> None:
    alter(written, "DELETE FROM fields WHERE row = 7")
    alter(written, "INSERT INTO lexical (lexical) VALUES ('delete-all')")
    assert KnowledgeBase.repair(written, encoder=HashingEncoder()).repaired == 0
    with KnowledgeBase.open(written, encoder=HashingEncoder()) as kb:
        kb.check()
        assert "p7" in [p.id for p in kb.search("word7", k=20, where={"odd": 1})]


def test_a_way_to_verify_that_there_is_not(written: Path) -> None:
    with pytest.raises(ValueError, match="verify must be one of auto, wait, never, got 'always'"):
        KnowledgeBase.open(written, encoder=HashingEncoder(), verify="always")


def test_a_log_that_lost_commits_is_noticed(tmp_path: Path) -> None:
    kb = KnowledgeBase.create(tmp_path / "kb", encoder=HashingEncoder())
    kb.upsert([Passage("a", "red")])
    kb.upsert([Passage("b", "blue")])
    copy = tmp_path / "copy"
    (copy / "vectors").mkdir(parents=True)
    for path in kb.folder.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(kb.folder)).write_bytes(path.read_bytes())
    kb.close()
    log = copy / "record.sqlite-wal"
    data = bytearray(log.read_bytes())
    data[-30] ^= 1  # in the last commit's page
    log.write_bytes(data)
    with pytest.raises(CorruptIndexError, match="is at revision 1, but revision 2 was committed"):
        KnowledgeBase.open(copy, encoder=HashingEncoder())
    # Whoever accepts the loss repairs; the rest is whole.
    KnowledgeBase.repair(copy, encoder=HashingEncoder())
    with KnowledgeBase.open(copy, encoder=HashingEncoder()) as kb:
        assert [p.id for p in kb.search("red")] == ["a"]


def test_a_damaged_note_of_the_revision_says_nothing(written: Path) -> None:
    write_head(written, 2)
    assert read_head(written) == 2
    data = bytearray((written / HEAD).read_bytes())
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        (written / HEAD).write_bytes(damaged)
        assert read_head(written) in (0, 2)
    with KnowledgeBase.open(written, encoder=HashingEncoder()) as kb:
        kb.upsert([Passage("z", "new")])
    assert read_head(written) == 3
