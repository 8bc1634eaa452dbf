"""A backup is one revision, whole, while another process writes, deletes and compacts; or it is not there at all."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge import KnowledgeBase, Passage
from tests.knowledge.encoders import HashingEncoder
from tests.knowledge.writing_process import BATCH, batch

ROOT = Path(__file__).parents[2]


def fill(kb: KnowledgeBase) -> None:
    kb.upsert([Passage(f"p{i}", f"word{i} text", f"title {i}", {"i": i}) for i in range(60)])
    kb.upsert([Passage("given", "with a vector")], np.ones((1, kb.settings.dim), dtype=np.float32))
    kb.delete(["p3", "p30"])
    kb.upsert([Passage("p7", "word7 again")])


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_a_backup_is_the_same_knowledge_base(
    kb: KnowledgeBase, encoder: HashingEncoder, tmp_path: Path, kind: str
) -> None:
    fill(kb)
    kb.build_index(kind)
    report = kb.backup(tmp_path / "copy")
    info = kb.info()
    assert (report.revision, report.passages, report.rows) == (kb.revision, 59, 62)
    assert bool(report.snapshot) == (kind == "hnsw")
    questions = ["word5", "word7 again", "with a vector"]
    before = kb.search(questions, k=20)
    with KnowledgeBase.open(tmp_path / "copy", encoder=encoder) as copy:
        assert copy.search(questions, k=20) == before
        assert copy.info() == {**info, "path": str(tmp_path / "copy"), "bytes": copy.info()["bytes"]}
        copy.check()
        copy.upsert([Passage("new", "only in the copy")])  # the two share nothing
        copy.compact()
    assert kb.get(["new"]) == [None]
    assert kb.search(questions, k=20) == before
    kb.check()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "kb"]


def test_an_empty_knowledge_base_and_an_empty_folder(kb: KnowledgeBase, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    assert kb.backup(tmp_path / "copy").passages == 0
    with KnowledgeBase.open(tmp_path / "copy", encoder=HashingEncoder()) as copy:
        copy.upsert([Passage("a", "words")])
        assert len(copy) == 1


def test_what_is_there_is_not_written_over(kb: KnowledgeBase, tmp_path: Path) -> None:
    fill(kb)
    kb.backup(tmp_path / "copy")
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "copy").rglob("*"))
    (tmp_path / "file").write_text("text")
    for target in ("copy", "file", "kb"):
        with pytest.raises(KnowledgeBaseError, match="choose another"):
            kb.backup(tmp_path / target)
    with pytest.raises(KnowledgeBaseError, match="lies in the knowledge base itself"):
        kb.backup(kb.folder / "vectors" / "copy")
    with pytest.raises(KnowledgeBaseError, match="could not be written"):
        kb.backup(tmp_path / "file" / "copy")
    assert sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "copy").rglob("*")) == before


def test_no_backup_of_damage(kb: KnowledgeBase, tmp_path: Path) -> None:
    fill(kb)
    segment = kb.folder / "vectors" / "000001-000002.f32"
    data = bytearray(segment.read_bytes())
    data[9] ^= 1
    segment.write_bytes(data)
    with pytest.raises(
        CorruptIndexError, match=r"no backup was made, .*000001-000002\.f32: the vectors of rows"
    ):
        kb.backup(tmp_path / "copy")
    segment.unlink()
    with pytest.raises(CorruptIndexError, match="has 0 bytes"):
        kb.backup(tmp_path / "copy")
    assert [p.name for p in tmp_path.iterdir()] == ["kb"]


def test_no_backup_of_a_damaged_snapshot(kb: KnowledgeBase, tmp_path: Path) -> None:
    fill(kb)
    kb.build_index("hnsw")
    index = next((kb.folder / "hnsw").iterdir()) / "index.bin"
    with index.open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(CorruptIndexError, match=r"index\.bin"):
        kb.backup(tmp_path / "copy")
    assert [p.name for p in tmp_path.iterdir()] == ["kb"]


def test_a_snapshot_that_vanishes_meanwhile(
    kb: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment is made certain: the snapshot is replaced between the state's reading and its files' opening."""
    fill(kb)
    kb.build_index("hnsw")
    opening = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.parent == kb.folder / "hnsw" and path.exists():
            with KnowledgeBase.open(kb.folder, encoder=HashingEncoder()) as writer:
                writer.upsert([Passage(f"more{i}", f"more{i}") for i in range(40)])
                writer.build_index("hnsw")
            assert not path.exists()
        return opening(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    report = kb.backup(tmp_path / "copy")
    monkeypatch.undo()
    assert (report.snapshot, report.passages) == ("", 59)
    with KnowledgeBase.open(tmp_path / "copy", encoder=HashingEncoder()) as copy:
        assert copy.info()["search"] == "exact"
        copy.check()
        assert copy.build_index()
    assert len(kb) == 99


@contextlib.contextmanager
def writing(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that upserts, deletes, compacts and indexes without a pause."""
    command = [sys.executable, "-m", "tests.knowledge.writing_process", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()
            process.stdout.read()


def whole_batches(path: Path) -> set[int]:
    """Numbers of the batches in a copy: each is there with all its passages, and is found."""
    with KnowledgeBase.open(path, encoder=HashingEncoder(similarity="cosine"), threads=1) as kb:
        numbers = {int(p.id.split("-")[0]) for p in kb.search("item0", k=len(kb))}
        assert len(kb) == len(numbers) * BATCH
        for number in sorted(numbers)[-5:]:
            assert kb.get([p.id for p in batch(number)]) == list(batch(number))
            assert kb.search(f"batch{number} item3", k=1)[0].id == f"{number}-3"
        kb.check()
        kb.compact()
        return numbers


def test_backups_while_another_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "kb"
    encoder = HashingEncoder(similarity="cosine")
    revisions = []
    with KnowledgeBase.create(path, encoder=encoder, rows_per_segment=7, threads=1) as kb:
        with writing(path) as process:
            for number in range(12):
                report = kb.backup(tmp_path / f"copy{number}")
                revisions.append(report.revision)
            assert process.poll() is None
        for number in range(12):
            numbers = whole_batches(tmp_path / f"copy{number}")
            # What the writer deletes: of the batches up to the newest, every third, but for the last ones.
            newest = max(numbers)
            assert numbers == {n for n in range(newest + 1) if n % 3 or n + 2 > newest} | (
                numbers & {newest - 2, newest - 1}
            )
            kb.check()
    assert revisions == sorted(revisions)
    assert len(set(revisions)) > 6


BACK_UP_FOREVER = """
import itertools, sys
from pathlib import Path
from rag_infer.knowledge import KnowledgeBase
with KnowledgeBase.open(sys.argv[1]) as kb:
    for number in itertools.count():
        kb.backup(Path(sys.argv[2]) / f"copy{number}")
        print(number, flush=True)
"""


def test_a_kill_leaves_whole_copies_only(tmp_path: Path) -> None:
    encoder = HashingEncoder(512)
    with KnowledgeBase.create(tmp_path / "kb", encoder=encoder, rows_per_segment=100, threads=1) as kb:
        kb.upsert([Passage(str(i), f"text {i % 7}") for i in range(2000)])
        moments = random.Random(3)
        for number in range(8):
            folder = tmp_path / f"run{number}"
            folder.mkdir()
            command = [sys.executable, "-c", BACK_UP_FOREVER, str(kb.folder), str(folder)]
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(moments.uniform(0, 0.2))
                process.send_signal(signal.SIGKILL)
            copies = [p for p in folder.iterdir() if not p.name.startswith(".")]
            assert copies
            for copy in copies:
                with KnowledgeBase.open(copy, encoder=encoder) as opened:
                    opened.check()
                    assert len(opened) == 2000
            left = [p.name.split(".")[1] for p in folder.glob(".*.unfinished")]
            for name in left:  # the next backup to the same folder removes what the killed one left
                kb.backup(folder / name)
            assert not list(folder.glob(".*"))
            shutil.rmtree(folder)


def test_a_full_disk(kb: KnowledgeBase, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting needs root")
    try:
        vectors = np.ones((2000, 16), dtype=np.float32)
        kb.upsert([Passage(str(i), "text " * 5) for i in range(2000)], vectors)
        for name in ("vectors", "record"):
            with pytest.raises(
                KnowledgeBaseError,
                match=rf"^{folder / name} could not be written \(.*(disk|space).*\); no backup was made",
            ):
                kb.backup(folder / name)
            assert list(folder.iterdir()) == []
            kb.upsert([Passage(str(i), "text " * 100) for i in range(2000)], vectors)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    kb.check()
    kb.backup(tmp_path / "copy")


def test_names_like_those_of_leftovers_are_somebody_elses(kb: KnowledgeBase, tmp_path: Path) -> None:
    fill(kb)
    for name in (".copy.mine.backup", ".copy.20261122.backup", ".copy.mine.unfinished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("precious")
    before = sorted(tmp_path.glob(".copy*/*"))
    kb.backup(tmp_path / "copy")
    assert sorted(tmp_path.glob(".copy*/*")) == before


def test_a_link_is_followed(kb: KnowledgeBase, encoder: HashingEncoder, tmp_path: Path) -> None:
    fill(kb)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "not there"):
        (tmp_path / f"link to {name}").symlink_to(tmp_path / name)
        kb.backup(tmp_path / f"link to {name}")
        assert (tmp_path / f"link to {name}").is_symlink()
        with KnowledgeBase.open(tmp_path / name, encoder=encoder) as copy:
            assert copy.get(["given"]) == kb.get(["given"])
    (tmp_path / "inside").symlink_to(kb.folder)
    with pytest.raises(KnowledgeBaseError, match="lies in the knowledge base itself"):
        kb.backup(tmp_path / "inside" / "copy")
