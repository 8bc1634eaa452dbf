"""Nothing committed is lost, nothing uncommitted is shown, damage is noticed: with real kills and full disks."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError, RagInferWarning
from rag_infer.knowledge import KnowledgeBase, Passage
from tests.knowledge import history
from tests.knowledge.encoders import HashingEncoder
from tests.knowledge.writing_process import BATCH, batch

ROOT = Path(__file__).parents[2]


def test_a_kill_at_any_moment_keeps_what_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "kb"
    KnowledgeBase.create(path, encoder=HashingEncoder(similarity="cosine"), rows_per_segment=7).close()
    moments = random.Random(5)
    there: set[int] = set()
    said: list[str] = []
    for _ in range(10):
        said += _write_and_kill(path, seconds=moments.uniform(0.0, 0.25))
        there = {int(line[1:]) for line in said if line[0] == "+"} - {
            int(line[1:]) for line in said if line[0] == "-"
        }
        with KnowledgeBase.open(path, encoder=HashingEncoder(similarity="cosine"), threads=1) as kb:
            found = _whole_batches(kb)
            # The change in progress may have been committed without being said: one batch more, or one less.
            assert len(found - there) <= 1
            assert len(there - found) <= 1
            kb.check()
            said += [f"+{n}" for n in found - there] + [f"-{n}" for n in there - found]
            kb.upsert([Passage("after", f"after {len(said)}")])  # a writer cuts what was left behind
            kb.check()
            kb.delete(["after"])
    assert len(said) > 20


def _write_and_kill(path: Path, *, seconds: float) -> list[str]:
    """Let a process write; kill it some time after its first commit; returns what it said."""
    command = [sys.executable, "-m", "tests.knowledge.writing_process", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
    # The last line may be cut short by the kill.
    return [line for line in (first + rest).splitlines(keepends=True) if line.endswith("\n")]


def _whole_batches(kb: KnowledgeBase) -> set[int]:
    """Numbers of the batches there; each is there with all its passages, and is found."""
    hits = kb.search("item0", k=len(kb) or 1)
    numbers = {int(p.id.split("-")[0]) for p in hits}
    for number in numbers:
        assert kb.get([p.id for p in batch(number)]) == list(batch(number))
        found = kb.search(f"batch{number} item3", k=BATCH, where={"batch": number})
        assert found[0].id == f"{number}-3"
    assert len(kb) == len(numbers) * BATCH
    return numbers


def test_bytes_that_were_never_committed_do_not_count(kb: KnowledgeBase) -> None:
    kb.upsert([Passage("a", "first words"), Passage("b", "second words")])
    segment = next((kb.folder / "vectors").iterdir())
    with segment.open("ab") as stream:
        stream.write(b"\xff" * 100)
    (kb.folder / "vectors" / "000001-000001.f32").write_bytes(b"junk")
    assert kb.search("first", k=5)[0].id == "a"
    kb.upsert([Passage("c", "third words")])
    assert segment.stat().st_size == 3 * 16 * 4
    assert [p.name for p in (kb.folder / "vectors").iterdir()] == [segment.name]
    assert kb.search("third", k=1)[0].id == "c"
    kb.check()


def test_a_transaction_that_fails_leaves_no_trace(kb: KnowledgeBase) -> None:
    kb.upsert([Passage("a", "first words")])
    with sqlite3.connect(kb.folder / "record.sqlite") as connection:
        connection.execute(
            "CREATE TRIGGER no BEFORE INSERT ON passages WHEN new.id = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    connection.close()
    with pytest.raises(KnowledgeBaseError):
        kb.upsert([Passage("b", "second words"), Passage("bad", "third words")])
    assert (len(kb), kb.revision) == (1, 1)
    kb.upsert([Passage("b", "second words")])
    assert kb.search("second", k=1)[0].id == "b"
    kb.check()


def test_a_vector_file_cut_short(tmp_path: Path, encoder: HashingEncoder) -> None:
    path = tmp_path / "kb"
    passages = [Passage(f"p{i}", f"word{i} text") for i in range(20)]
    with KnowledgeBase.create(path, encoder=encoder, rows_per_segment=8) as kb:
        kb.upsert(passages)
        kb.upsert([Passage("p3", "word3 again")])
        before = kb.search(["word4", "word17", "again"], k=20)
    segment = path / "vectors" / "000001-000001.f32"
    os.truncate(segment, 100)
    message = r"000001-000001\.f32 has 100 bytes, 512 are recorded \(8 vectors of 16\).*--repair"
    with pytest.raises(CorruptIndexError, match=message):
        KnowledgeBase.open(path, encoder=encoder)
    segment.unlink()
    with pytest.raises(CorruptIndexError, match="has 0 bytes, 512 are recorded"):
        KnowledgeBase.open(path, encoder=encoder)
    report = KnowledgeBase.repair(path, encoder=encoder)
    assert (report.repaired, report.passages) == (8, 20)
    with KnowledgeBase.open(path, encoder=encoder) as kb:
        assert kb.search(["word4", "word17", "again"], k=20) == before


def test_an_altered_vector_is_noticed_and_mended(kb: KnowledgeBase, encoder: HashingEncoder) -> None:
    kb.upsert([Passage(f"p{i}", f"word{i} text") for i in range(20)])
    before = kb.search("word9", k=20)
    _flip_a_byte(kb.folder / "vectors" / "000001-000001.f32", 70)
    with pytest.raises(CorruptIndexError, match=r"000001-000001\.f32: the vectors of rows 8 to 15 differ"):
        kb.check()
    with pytest.raises(CorruptIndexError, match="differ from their checksum"):
        kb.compact()
    assert KnowledgeBase.repair(kb.folder, encoder=encoder).repaired == 8
    assert kb.search("word9", k=20) == before
    kb.check()


def test_given_vectors_cannot_be_made_again(kb: KnowledgeBase, encoder: HashingEncoder) -> None:
    kb.upsert([Passage("e", "encoded"), Passage("f", "gone")])
    kb.upsert([Passage("g", "given")], np.ones((1, 16), dtype=np.float32))
    kb.delete(["f"])
    kb.compact()
    _flip_a_byte(kb.folder / "vectors" / "000002-000000.f32", 16 * 4)
    with pytest.raises(CorruptIndexError, match=r"of 1 passages were given, not encoded: .* 'g'"):
        KnowledgeBase.repair(kb.folder, encoder=encoder)
    with pytest.raises(CorruptIndexError, match="vector in row 1 is not that of passage 'g'"):
        kb.check()
    given = np.ones((1, 16), dtype=np.float32)
    assert kb.upsert([Passage("g", "given")], given).replaced == 1
    kb.check()
    assert kb.search_vectors(given, 1)[0][0].id == "g"
    # What a dead row holds is of no matter.
    _flip_a_byte(kb.folder / "vectors" / "000002-000000.f32", 16 * 4)
    with pytest.raises(CorruptIndexError, match="rows 1 to 1 differ"):
        kb.check()
    KnowledgeBase.repair(kb.folder, encoder=encoder)
    kb.check()


def test_an_altered_record_is_noticed(kb: KnowledgeBase) -> None:
    kb.upsert([Passage(f"p{i}", f"word{i}") for i in range(5)])
    with sqlite3.connect(kb.folder / "record.sqlite") as connection:
        connection.execute("DELETE FROM passages WHERE id = 'p2'")
        connection.execute("DELETE FROM blocks")
    connection.close()
    with pytest.raises(CorruptIndexError, match=r"4 passages .* where 5 passages in 5 rows.*and 2 more"):
        kb.check()


def _flip_a_byte(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


WRITE_UNTIL_FULL = """
import resource, sys
from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge import KnowledgeBase, Passage
from tests.knowledge import history
from tests.knowledge.encoders import HashingEncoder
if sys.argv[2] != "disk":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
with KnowledgeBase.open(sys.argv[1], encoder=HashingEncoder(512), threads=1) as kb:
    for number in range(10000):
        try:
            kb.upsert([Passage(f"{number}-{i}", f"word{number} " + "x" * int(sys.argv[3])) for i in range(20)])
        except KnowledgeBaseError as error:
            print(error)
            assert len(kb.search("word0", k=5)) == 5
            break
        print(number)
"""


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if (
        shutil.which("mount") is None
        or subprocess.run(mount, check=False, capture_output=True).returncode != 0
    ):
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _fill(path: Path, limit: str, text_bytes: int) -> tuple[int, str]:
    """Upsert until an error; returns the number of batches that were committed, and the error."""
    KnowledgeBase.create(path, encoder=HashingEncoder(512)).close()
    command = [sys.executable, "-c", WRITE_UNTIL_FULL, str(path), limit, str(text_bytes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    *numbers, message = done.stdout.splitlines()
    assert numbers == [str(n) for n in range(len(numbers))]
    with KnowledgeBase.open(path, encoder=HashingEncoder(512), threads=1) as kb:
        kb.check()
        assert len(kb) == 20 * len(numbers) > 0
        assert kb.search(f"word{len(numbers) - 1}", k=1)[0].id == f"{len(numbers) - 1}-0"
    return len(numbers), message


@pytest.mark.parametrize("text_bytes", [10, 5000], ids=["vectors first", "record first"])
def test_a_full_disk_keeps_what_was_committed(full_disk: Path, text_bytes: int) -> None:
    _, message = _fill(full_disk / "kb", "disk", text_bytes)
    assert "ommitted passages are kept" in message
    assert "No space left" in message or "disk is full" in message


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    batches, message = _fill(tmp_path / "kb", "6000000", 10)  # the write-ahead log takes some 4 MB
    assert batches == 6000000 // (20 * 512 * 4)
    assert "40,960 bytes of vectors could not be written (File too large)" in message


def test_a_corrupt_index_is_made_anew_with_a_warning(kb: KnowledgeBase) -> None:
    kb.upsert([Passage(f"p{i}", f"word{i} text") for i in range(50)])
    kb.build_index("hnsw")
    before = kb.search("word7", k=10)
    snapshot = next((kb.folder / "hnsw").iterdir())
    _flip_a_byte(snapshot / "index.bin", 200)
    with KnowledgeBase.open(kb.folder, encoder=HashingEncoder()) as other:
        with pytest.raises(CorruptIndexError, match=r"index\.bin has"):
            other.check()
        with pytest.warns(RagInferWarning, match="corrupt index made anew"):
            assert other.search("word7", k=10) == before
        assert snapshot.exists()  # the first one had loaded it before, and holds it
        other.check()
        assert other.info()["search"] == "hnsw"
        assert other.search("word7", k=10) == before
    assert kb.search("word7", k=10) == before
    kb.delete(["p49"])
    assert not snapshot.exists()


def test_a_record_cut_short(kb: KnowledgeBase) -> None:
    kb.upsert([Passage(f"p{i}", f"word{i} " + "text " * 100) for i in range(200)])
    kb.close()
    os.truncate(kb.folder / "record.sqlite", 40_000)
    with pytest.raises(CorruptIndexError, match=r"record\.sqlite is damaged"):  # noqa: SIM117
        with KnowledgeBase.open(kb.folder, encoder=HashingEncoder()) as opened:
            opened.check()
    for length in (5000, 300):
        os.truncate(kb.folder / "record.sqlite", length)
        with pytest.raises(CorruptIndexError, match=r"record\.sqlite"):
            KnowledgeBase.open(kb.folder)


def test_a_copy_without_empty_folders(kb: KnowledgeBase, tmp_path: Path) -> None:
    kb.close()
    (tmp_path / "copy").mkdir()
    shutil.copy(kb.folder / "record.sqlite", tmp_path / "copy")
    with KnowledgeBase.open(tmp_path / "copy", encoder=HashingEncoder()) as copy:
        assert copy.search("words") == []
        copy.upsert([Passage("a", "words")])
        copy.build_index("hnsw")
        assert [p.id for p in copy.search("words")] == ["a"]


def test_a_disk_that_is_full_at_each_write(full_disk: Path) -> None:
    """Every amount of free space, from none upwards, stops the change at another write."""
    path, ballast = full_disk / "kb", full_disk / "ballast"
    KnowledgeBase.create(path, encoder=history.encoder(), rows_per_segment=17).close()
    contents: history.Contents = {}
    refused = 0
    for change in range(150):
        free = change // 3 * 4096
        ballast.write_bytes(b"x" * max(0, shutil.disk_usage(full_disk).free - free))
        try:
            opened = KnowledgeBase.open(path, encoder=history.encoder(), threads=1)
            with warnings.catch_warnings(), opened as kb:
                warnings.simplefilter(
                    "ignore", RagInferWarning
                )  # compacted, but no room to make the record small
                history.make(kb, change)
            contents = history.replay(contents, change)
        except KnowledgeBaseError:
            refused += 1
        ballast.unlink()
        with KnowledgeBase.open(path, encoder=history.encoder(), threads=1) as kb:
            assert history.difference(kb, contents) == ""
    assert 30 < refused < 120
    assert contents


def test_an_index_that_does_not_fit_on_the_disk(full_disk: Path) -> None:
    rows = 1500
    vectors = np.random.default_rng(0).standard_normal((rows, 128)).astype(np.float32)
    encoder = HashingEncoder(128)
    with KnowledgeBase.create(full_disk / "kb", encoder=encoder) as kb:
        kb.upsert([Passage(str(i), "text") for i in range(rows)], vectors)
        ballast = full_disk / "ballast"
        ballast.write_bytes(b"x" * (shutil.disk_usage(full_disk).free - 500_000))
        with pytest.raises(KnowledgeBaseError, match=r"could not be written .* search is exact without it"):
            kb.build_index("hnsw")
        assert not list((kb.folder / "hnsw").iterdir())
        assert kb.search_vectors(vectors[7:8], 1)[0][0].id == "7"
        ballast.unlink()
        assert kb.build_index("hnsw")
        kb.check()


def test_a_read_only_disk_can_be_searched(full_disk: Path) -> None:
    with KnowledgeBase.create(full_disk / "kb", encoder=HashingEncoder()) as kb:
        kb.upsert([Passage("a", "words")])
    subprocess.run(["mount", "-o", "remount,ro", str(full_disk)], check=True)
    with KnowledgeBase.open(full_disk / "kb", encoder=HashingEncoder()) as kb:
        assert [p.id for p in kb.search("words")] == ["a"]
        kb.check()
        with pytest.raises(KnowledgeBaseError, match=r"lock cannot be written: Read-only file system"):
            kb.upsert([Passage("b", "words")])
