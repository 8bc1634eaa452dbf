"""Searches from several threads and processes while another changes the knowledge base."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rag_infer.knowledge import KnowledgeBase, Passage
from tests.knowledge.encoders import HashingEncoder

ROOT = Path(__file__).parents[2]

BATCH = 6


def generation(number: int) -> list[Passage]:
    """The same ids each time, with other texts."""
    return [
        Passage(f"p{i}", f"item{i} generation{number}", metadata={"generation": number}) for i in range(BATCH)
    ]


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_every_search_sees_one_revision_whole(kb: KnowledgeBase, kind: str) -> None:
    kb.upsert(generation(0))
    kb.build_index(kind)
    stop = threading.Event()
    seen: set[int] = set()

    def search() -> int:
        searches = 0
        while not stop.is_set():
            hits = kb.search("item0 generation1", k=50)
            numbers = {p.metadata["generation"] for p in hits}
            # Replaced all at once: never two generations together, never a passage too few or twice.
            assert len(numbers) == 1
            assert sorted(p.id for p in hits) == [f"p{i}" for i in range(BATCH)]
            seen.update(numbers)
            searches += 1
        return searches

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(search) for _ in range(4)]
        try:
            for number in range(1, 40):
                kb.upsert(generation(number))
                if number % 10 == 0:
                    kb.compact()
                if number % 10 == 5:
                    kb.build_index()
        finally:
            stop.set()
        assert all(future.result() > 0 for future in futures)
    assert len(seen) > 3
    assert {p.metadata["generation"] for p in kb.search("item0", k=50)} == {39}
    kb.check()


def test_threads_upsert_side_by_side(kb: KnowledgeBase) -> None:
    def write(thread: int) -> None:
        for i in range(10):
            kb.upsert(
                [Passage(f"{thread}-{i}", f"thread{thread} item{i}"), Passage("shared", f"by {thread}")]
            )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(kb) == 41
    kb.check()


def test_a_reader_sees_what_another_process_commits(kb: KnowledgeBase) -> None:
    kb.upsert([Passage("a", "first words")])
    assert [p.id for p in kb.search("words", k=5)] == ["a"]
    script = (
        "import sys\nfrom rag_infer.knowledge import KnowledgeBase, Passage\n"
        "from tests.knowledge.encoders import HashingEncoder\n"
        "with KnowledgeBase.open(sys.argv[1], encoder=HashingEncoder()) as kb:\n"
        "    kb.upsert([Passage('b', 'second words')]); kb.delete(['a']); kb.compact()\n"
    )
    subprocess.run([sys.executable, "-c", script, str(kb.folder)], cwd=ROOT, check=True)
    assert [p.id for p in kb.search("words", k=5)] == ["b"]
    assert (kb.revision, len(kb)) == (4, 1)


def test_two_processes_create_the_same_knowledge_base(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom rag_infer.errors import KnowledgeBaseError\nfrom rag_infer.knowledge import KnowledgeBase\n"
        "from tests.knowledge.encoders import HashingEncoder\n"
        "try:\n    KnowledgeBase.create(sys.argv[1], encoder=HashingEncoder()).close(); print('made')\n"
        "except KnowledgeBaseError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "kb")]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = sorted(process.communicate()[0].strip() for process in processes)
    assert said.count("made") == 1
    assert sum("exists and is not an empty folder" in line for line in said) == 2
    with KnowledgeBase.open(tmp_path / "kb", encoder=HashingEncoder()) as kb:
        assert len(kb) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["kb"]
