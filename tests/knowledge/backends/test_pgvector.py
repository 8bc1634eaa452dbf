"""What PostgreSQL adds: sharing between processes, its own limits and errors, its index."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from rag_infer import _kernels
from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge import KnowledgeBase, Passage, Upserted
from rag_infer.knowledge.backends import pieces
from rag_infer.knowledge.backends.protocol import OvertakenError
from tests.knowledge.backends.server import PostgresServer
from tests.knowledge.backends.test_contract import PASSAGES, numbered, vectors_of
from tests.knowledge.encoders import HashingEncoder

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def kb(address: str, encoder: HashingEncoder) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.create(address, encoder=encoder, writer_timeout=0.5) as made:
        yield made


def schema(address: str) -> str:
    return address.rpartition("knowledge_base=")[2].partition("&")[0]


def test_two_processes_share_it(kb: KnowledgeBase, address: str) -> None:
    command = [sys.executable, "-m", "tests.knowledge.backends.sharing_process", address]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [*command, name, "20"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for name in ("one", "two")
    ]
    revisions = []
    while any(process.poll() is None for process in processes):
        found, revision = kb.search_revision(HashingEncoder().encode(["one words 3"]), 5)
        revisions.append(revision)
        assert len({p.id for p in found[0]}) == len(found[0])
    for process in processes:
        out, errors = process.communicate()
        assert out.strip() == b"done", errors.decode()
    assert revisions == sorted(revisions)
    assert len(set(revisions)) > 2  # it was seen changing
    assert kb.revision == 2 * (20 + 4)
    assert len(kb) == 2 * (200 - 4) + 1
    assert kb.check().passages == len(kb)


class OvertakenEncoder(HashingEncoder):
    """While it encodes, somebody else writes: so often as is said."""

    def __init__(self, write: Callable[[], object], times: int) -> None:
        super().__init__()
        self.write, self.left = write, times

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.left:
            self.left -= 1
            self.write()
        return super().encode(texts)


def test_what_was_found_unchanged_is_looked_at_again(kb: KnowledgeBase, address: str) -> None:
    """Else the end would be a mixture of two calls that were made at the same moment."""
    steady, one, two = Passage("steady", "as it is"), Passage("new", "of one"), Passage("new", "of two")
    kb.upsert([steady])
    encoder = OvertakenEncoder(lambda: kb.upsert([Passage("steady", "not as it was"), two]), times=1)
    with KnowledgeBase.open(address, encoder=encoder) as other:
        assert other.upsert([steady, one]) == Upserted(0, 2, 0)
        assert kb.get(["steady", "new"]) == [steady, one]
        revision = kb.revision
        numbers = itertools.count()
        encoder.left, encoder.write = 100, lambda: kb.upsert([Passage("steady", f"as {next(numbers)}")])
        kb.upsert([steady])
        with pytest.raises(OvertakenError, match="1 passages that were as they are to be have been changed"):
            other.upsert(iter([steady, two]))
        assert kb.get(["steady", "new"]) == [Passage("steady", "as 0"), one], "nothing of it was written"
        assert kb.revision == revision + 1


def test_a_call_is_seen_whole_or_not_at_all(kb: KnowledgeBase) -> None:
    stop = threading.Event()
    seen = set()

    def read() -> None:
        while not stop.is_set():
            found, revision = kb.search_revision(vectors_of(1), 100)
            texts = {p.text for p in found[0]}
            assert len(texts) <= 1, texts
            seen.add((revision, len(found[0])))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(10):
            kb.upsert([Passage(f"p{i}", f"version {number}") for i in range(50)])
    finally:
        stop.set()
        reader.join()
    assert {count for _, count in seen} <= {0, 50}
    assert len(seen) > 1


def test_a_large_upsert_is_streamed_and_whole(
    kb: KnowledgeBase, encoder: HashingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PASSAGES_PER_PIECE", 10)
    kb.upsert([Passage("p3", "old"), Passage("p7", "text 7")])

    def source() -> Iterator[Passage]:
        for i in range(200):
            yield Passage(f"p{i}", f"text {i}")
            assert len(kb) == 2  # nothing is visible yet
        yield Passage("p7", "first another text")
        yield from (Passage(f"p{i}", f"text {i}") for i in range(20))  # p7 is what was there, and counts

    assert kb.upsert(source()) == Upserted(added=198, replaced=1, unchanged=1)
    assert (len(kb), kb.revision) == (200, 2)
    assert [p.text for p in kb.get(["p3", "p7"]) if p] == ["text 3", "text 7"]
    kb.check()

    def failing() -> Iterator[Passage]:
        yield from (Passage(f"q{i}", "text") for i in range(150))
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        kb.upsert(failing())
    assert (len(kb), kb.revision) == (200, 2)


@pytest.mark.parametrize(
    "passage",
    [
        Passage("n", "a\0b"),
        Passage("n", "text", title="\0"),
        Passage("n\0", "text"),
        Passage("n", "text", metadata={"a": [{"b\0": 1}]}),
        Passage("n", "text", metadata={"\0": 1}),
    ],
)
def test_a_nul_is_refused_and_nothing_written(kb: KnowledgeBase, passage: Passage) -> None:
    with pytest.raises(KnowledgeBaseError, match=r"has a NUL .* which PostgreSQL cannot hold"):
        kb.upsert([*PASSAGES, passage])
    assert (len(kb), kb.get(["n\0"])) == (0, [None])


def test_a_megabyte_of_metadata(kb: KnowledgeBase) -> None:
    passage = Passage("big", "text", metadata={"big": "x" * 900_000, "list": list(range(10_000))})
    kb.upsert([passage])
    assert kb.get(["big"]) == [passage]
    assert [p.id for p in kb.search("text", where={"list": {"$contains": 9_999}})] == ["big"]


def test_filters_give_k_with_an_index(kb: KnowledgeBase, postgres: PostgresServer, address: str) -> None:
    vectors, queries = vectors_of(4000), vectors_of(20, seed=1)
    kb.upsert(
        [Passage(f"p{i}", "text", metadata={"n": i, "rare": i % 500 == 0}) for i in range(4000)], vectors
    )
    assert kb.build_index("hnsw")
    assert not kb.build_index("hnsw")
    found = kb.search_vectors(queries, 10)
    _, rows = _kernels.topk(vectors, queries, 10)
    hits = sum(len({p.id for p in f} & {f"p{i}" for i in r}) for f, r in zip(found, rows, strict=True))
    assert hits >= 0.95 * 200
    scores = {p.id: p.score for p in found[0]}
    exact, order = _kernels.topk(vectors, queries[:1], 4000)
    everything = {f"p{i}": s for i, s in zip(order[0], exact[0].tolist(), strict=True)}
    assert scores == {i: everything[i] for i in scores}
    for where, count in (({"rare": True}, 8), ({"n": {"$gte": 3000}}, 50), ({"n": 17}, 1), ({"n": -1}, 0)):
        for hits_of_one in kb.search_vectors(queries[:3], 50, where=where):
            assert len(hits_of_one) == count
    time.sleep(1.2)  # the server's own statistics come a second late
    used = postgres.run(
        "SELECT idx_scan FROM pg_stat_user_indexes WHERE schemaname = %s AND indexrelname = 'passages_hnsw'",
        [schema(address)],
    )
    assert used[0][0] > 0


def test_an_index_build_that_was_cut_off_is_done_again(
    kb: KnowledgeBase, postgres: PostgresServer, address: str
) -> None:
    kb.upsert(numbered(50), vectors_of(50))
    kb.build_index("hnsw")
    index = f'"{schema(address)}".passages_hnsw'
    postgres.run(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index}'::regclass")
    assert kb.info()["search"] == "exact"
    assert kb.build_index()
    assert kb.info()["search"] == "hnsw"


def test_more_dimensions_than_the_index_takes(postgres: PostgresServer) -> None:
    with KnowledgeBase.create(postgres.address(), encoder=HashingEncoder(dim=2100)) as kb:
        vectors = vectors_of(30, dim=2100)
        kb.upsert(numbered(30), vectors)
        assert [p.id for p in kb.search_vectors(vectors[7:8], 1)[0]] == ["p7"]
        with pytest.raises(KnowledgeBaseError, match="up to 2,000 dimensions, these have 2,100"):
            kb.build_index("hnsw")
        assert not kb.build_index("auto")
    with pytest.raises(KnowledgeBaseError, match="up to 16,000 dimensions"):
        KnowledgeBase.create(postgres.address(), encoder=HashingEncoder(dim=16_001))


def test_another_writer_is_waited_for_and_then_named(
    kb: KnowledgeBase, postgres: PostgresServer, address: str
) -> None:
    with psycopg.connect(address.partition("&")[0]) as other:
        other.execute(f'SELECT FROM "{schema(address)}".state FOR UPDATE')  # type: ignore[arg-type]
        with pytest.raises(KnowledgeBaseError, match="another writer is at work"):
            kb.upsert(PASSAGES)
        with pytest.raises(KnowledgeBaseError, match="another writer is at work"):
            kb.delete(["a"])
    assert kb.upsert(PASSAGES) == Upserted(added=3)


def test_a_search_that_takes_too_long_is_ended(kb: KnowledgeBase, address: str) -> None:
    kb.upsert(PASSAGES)
    with (
        KnowledgeBase.open(f"{address}&timeout=1", encoder=HashingEncoder()) as hasty,
        psycopg.connect(address.partition("&")[0]) as other,
    ):
        other.execute(f'LOCK TABLE "{schema(address)}".passages')  # type: ignore[arg-type]
        with pytest.raises(KnowledgeBaseError, match="took longer than 1 s: add timeout=SECONDS"):
            hasty.search("cat")
        other.rollback()
        assert len(hasty.search("cat")) == 3


def test_damage_is_found(kb: KnowledgeBase, postgres: PostgresServer, address: str) -> None:
    kb.upsert(PASSAGES)
    name = schema(address)
    postgres.run(f"UPDATE \"{name}\".passages SET text = 'something else' WHERE id = 'b'")
    with pytest.raises(CorruptIndexError, match="passage 'b' differs from its checksum; upsert"):
        kb.check()
    postgres.run(f"DELETE FROM \"{name}\".passages WHERE id = 'b'")
    with pytest.raises(CorruptIndexError, match="2 passages, where the state says 3"):
        kb.check()
    with pytest.raises(KnowledgeBaseError, match="'rag-infer index compact' renews the index"):
        KnowledgeBase.repair(address)
    postgres.run(f'DROP SCHEMA "{name}" CASCADE')
    with pytest.raises(KnowledgeBaseError, match="no whole knowledge base"):
        kb.search("cat")


def test_a_newer_format_is_refused(kb: KnowledgeBase, postgres: PostgresServer, address: str) -> None:
    state = f'"{schema(address)}".state'
    postgres.run(
        f"UPDATE {state} SET settings = replace(settings, '\"format_version\": 1', '\"format_version\": 9')"
    )
    with pytest.raises(KnowledgeBaseError, match="format_version 9, this rag_infer reads up to 1: upgrade"):
        KnowledgeBase.open(address)
    postgres.run(f"UPDATE {state} SET settings = '{{}}'")
    with pytest.raises(CorruptIndexError, match="lacks settings"):
        KnowledgeBase.open(address)


def test_a_database_that_will_not_do(postgres: PostgresServer) -> None:
    postgres.run("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(KnowledgeBaseError, match="must be in UTF-8, it is in LATIN1"):
        KnowledgeBase.open(postgres.address().replace("/postgres?", "/latin?"))
    postgres.run("CREATE ROLE reader LOGIN")
    with pytest.raises(KnowledgeBaseError, match="permission denied"):
        KnowledgeBase.create(
            postgres.address().replace("//postgres:@", "//reader@"), encoder=HashingEncoder()
        )


def test_only_one_of_two_can_make_it(postgres: PostgresServer, address: str) -> None:
    outcomes: list[str] = []

    def make() -> None:
        try:
            KnowledgeBase.create(address, encoder=HashingEncoder()).close()
            outcomes.append("made")
        except KnowledgeBaseError as error:
            outcomes.append("there is a" if "there is a knowledge base" in str(error) else str(error))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made", "there is a", "there is a", "there is a"]


def test_vectors_equal_those_given(kb: KnowledgeBase, postgres: PostgresServer, address: str) -> None:
    vectors = np.float32([[1e-45, -2e17, 0.1, *([0] * 13)], [1 / 3] * 16])
    kb.upsert(numbered(2), vectors)
    stored = postgres.run(f'SELECT embedding::real[] FROM "{schema(address)}".passages ORDER BY age')
    assert np.array([row for (row,) in stored], dtype=np.float32).tobytes() == vectors.tobytes()
