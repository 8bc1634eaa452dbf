"""Writers wait for each other and say who holds them up; readers wait for nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge import KnowledgeBase, Passage
from rag_infer.knowledge.lock import WriterLock
from tests.knowledge.encoders import HashingEncoder

ROOT = Path(__file__).parents[2]

HOLD = """
import sys, time
from rag_infer.knowledge import KnowledgeBase
with KnowledgeBase.open(sys.argv[1]) as kb, kb.writing():
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def _holder(folder: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that holds the writer lock for some time."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_writer_says_who_holds_it(kb: KnowledgeBase) -> None:
    kb.upsert([Passage("a", "words")])
    with _holder(kb.folder, 60) as process:
        with KnowledgeBase.open(kb.folder, encoder=HashingEncoder(), writer_timeout=0.2) as other:
            started = time.monotonic()
            message = rf"is being written to by process {process.pid} on .+ since \d{{4}}-.*; waited 0\.2 s"
            with pytest.raises(KnowledgeBaseError, match=message):
                other.upsert([Passage("b", "words")])
            assert 0.2 <= time.monotonic() - started < 5
            with pytest.raises(KnowledgeBaseError, match=str(process.pid)):
                other.delete(["a"])
            assert [p.id for p in other.search("words")] == ["a"]  # a reader does not wait
        process.kill()


def test_the_second_writer_gets_its_turn(kb: KnowledgeBase) -> None:
    with _holder(kb.folder, 0.3):
        kb.upsert([Passage("a", "words")])
    assert len(kb) == 1


def test_the_lock_of_a_dead_process_is_none(kb: KnowledgeBase) -> None:
    with _holder(kb.folder, 60) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with KnowledgeBase.open(kb.folder, encoder=HashingEncoder(), writer_timeout=0) as other:
        other.upsert([Passage("a", "words")])
        assert len(other) == 1


def test_a_thread_may_hold_it_twice_but_not_two_threads_at_once(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path / "lock", timeout=0.1)
    errors: list[str] = []

    def other_thread() -> None:
        try:
            with lock.hold():
                errors.append("held twice")
        except KnowledgeBaseError as error:
            errors.append(str(error))

    with lock.hold() as outer, lock.hold() as inner:
        assert (outer, inner) == (True, False)
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
    assert f"process {os.getpid()}" in errors[0]
    with lock.hold() as outermost:
        assert outermost


def test_two_objects_in_one_process_exclude_each_other(kb: KnowledgeBase) -> None:
    with KnowledgeBase.open(kb.folder, encoder=HashingEncoder(), writer_timeout=0) as other:
        with kb.writing(), pytest.raises(KnowledgeBaseError, match=f"process {os.getpid()}"):
            other.upsert([Passage("a", "words")])
        other.upsert([Passage("a", "words")])


def test_a_lock_file_with_junk_in_it(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path / "lock", timeout=0)
    with lock.hold():
        (tmp_path / "lock").write_text("[1, 2]")
        with (
            pytest.raises(KnowledgeBaseError, match="written to by another process"),
            WriterLock(tmp_path / "lock", timeout=0).hold(),
        ):
            pass


def test_a_negative_timeout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got -1"):
        WriterLock(tmp_path / "lock", timeout=-1)
