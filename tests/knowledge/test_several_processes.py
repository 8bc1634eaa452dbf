"""Forks, interpreters that end, and other processes that compact at the worst moment."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge import KnowledgeBase, Passage
from rag_infer.knowledge.check import check
from rag_infer.knowledge.verification import Verification
from tests.knowledge.encoders import HashingEncoder

ROOT = Path(__file__).parents[2]

FORKED = """
import os, sys
from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge import KnowledgeBase, Passage
from tests.knowledge.encoders import HashingEncoder
kb = KnowledgeBase.open(sys.argv[1], encoder=HashingEncoder(), threads=1)
kb.search("word1")
if os.fork() == 0:
    for use in (lambda: kb.search("word1"), lambda: kb.upsert([Passage("new", "x")]), lambda: kb.delete(["p1"])):
        try:
            use()
        except KnowledgeBaseError as error:
            print("refused" if "of which this is a fork" in str(error) else error, flush=True)
    kb.close()
    with KnowledgeBase.open(sys.argv[1], encoder=HashingEncoder(), threads=1) as own:
        own.upsert([Passage("child", "words of the child")])
    os._exit(0)
os.wait()
print(len(kb), flush=True)
kb.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with KnowledgeBase.create(tmp_path / "kb", encoder=HashingEncoder()) as kb:
        kb.upsert([Passage(f"p{i}", f"word{i} text") for i in range(50)])
    return tmp_path / "kb"


def test_a_fork_is_told_to_open_it_again(path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["refused"] * 3 + ["51"], done.stderr
    with KnowledgeBase.open(path, encoder=HashingEncoder()) as kb:
        assert len(kb) == 51
        kb.check()


ENDING = """
import sys, time
import numpy as np
from rag_infer.knowledge import KnowledgeBase, Passage
from tests.knowledge.encoders import HashingEncoder
kb = KnowledgeBase.create(sys.argv[1], encoder=HashingEncoder(128), index="hnsw", background_index=True)
vectors = np.random.default_rng(0).standard_normal((6000, 128)).astype(np.float32)
kb.upsert([Passage(str(i), "text") for i in range(6000)], vectors)
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2])
def test_an_interpreter_ends_while_an_index_is_being_built(tmp_path: Path, seconds: float) -> None:
    command = [sys.executable, "-c", ENDING, str(tmp_path / "kb"), str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_compaction_is_no_damage_to_those_who_check(path: Path) -> None:
    reader = KnowledgeBase.open(path, encoder=HashingEncoder(), verify="never")
    writer = KnowledgeBase.open(path, encoder=HashingEncoder(), verify="never")
    damaged, compacted = reader._writer.segments.damaged, []

    def meanwhile(*arguments: object) -> object:
        if not compacted:
            compacted.append(writer.delete(["p1"]))
            writer.compact()
        return damaged(*arguments)  # type: ignore[arg-type]

    reader._writer.segments.damaged = meanwhile  # type: ignore[assignment]
    assert check(reader._writer, dim=16).rows == 49
    assert compacted == [["p1"]]
    reader.close()
    writer.close()


def test_opening_beside_a_writer_that_compacts(path: Path) -> None:
    ended = threading.Event()

    def compact() -> None:
        with KnowledgeBase.open(path, encoder=HashingEncoder(), verify="never") as kb:
            number = 0
            while not ended.is_set():
                number += 1
                kb.upsert([Passage("p1", f"word1 again {number}")])
                kb.compact()

    thread = threading.Thread(target=compact)
    thread.start()
    try:
        for _ in range(60):
            with KnowledgeBase.open(path, encoder=HashingEncoder()) as kb:
                assert kb.search("word7 text", k=1)[0].id == "p7"
                assert kb.info()["passages"] == 50
                assert kb.check().passages == 50
    finally:
        ended.set()
        thread.join()


def test_what_cannot_be_read_is_not_taken_for_proven(tmp_path: Path) -> None:
    def check(stop: threading.Event) -> None:
        raise KnowledgeBaseError("the disk says no")

    verification = Verification(check, tmp_path, "wait")
    with pytest.raises(KnowledgeBaseError, match="the disk says no"):
        verification.demand()


def test_a_repair_takes_the_index_of_damaged_vectors_away(path: Path) -> None:
    segment = path / "vectors" / "000001-000000.f32"
    data = bytearray(segment.read_bytes())
    data[7 * 64 + 3] ^= 0x40
    segment.write_bytes(data)
    with KnowledgeBase.open(path, encoder=HashingEncoder(), verify="never") as kb:
        kb.build_index("hnsw", scan="int8")
    KnowledgeBase.repair(path, encoder=HashingEncoder())
    with KnowledgeBase.open(path, encoder=HashingEncoder(), verify="wait") as kb:
        assert kb.info()["search"] == "hnsw"
        vector = HashingEncoder().encode(["word7 text"])
        exact = float(np.square(vector.astype(np.float64)).sum())
        assert [p.score for p in kb.search_vectors(vector, 50)[0] if p.id == "p7"] == [pytest.approx(exact)]


def test_a_damaged_index_of_words_in_a_large_record(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_infer.knowledge.check.LARGEST_COPY", 0)
    with KnowledgeBase.open(path, encoder=HashingEncoder(), verify="never") as kb:
        kb.check()
        with kb._record.writing() as connection:
            connection.execute("INSERT INTO lexical (lexical) VALUES ('delete-all')")
        with pytest.raises(CorruptIndexError, match="index of words is not that of its passages"):
            kb.check()


def test_a_folder_that_this_user_cannot_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writable = os.access
    monkeypatch.setattr(os, "access", lambda where, mode: False if mode == os.W_OK else writable(where, mode))
    with KnowledgeBase.open(path, encoder=HashingEncoder()) as reader:
        assert len(reader) == 50
        script = (
            "import sys\nfrom rag_infer.knowledge import KnowledgeBase, Passage\n"
            "from tests.knowledge.encoders import HashingEncoder\n"
            "with KnowledgeBase.open(sys.argv[1], encoder=HashingEncoder()) as kb:\n"
            "    kb.upsert([Passage('new', 'words')])\n"
        )
        subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=True)
        assert len(reader) == 51
