"""A server that restarts, connections that are cut: reads are tried again, and a write is done once or not at all."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge import KnowledgeBase, Passage, Upserted
from rag_infer.knowledge.backends import pgvector_pool, pieces, qdrant_server
from rag_infer.knowledge.backends.pgvector_connection import LostConnectionError
from tests.knowledge.backends.cutting_proxy import CuttingProxy
from tests.knowledge.backends.server import PostgresServer
from tests.knowledge.backends.test_contract import PASSAGES, vectors_of
from tests.knowledge.encoders import HashingEncoder


@pytest.fixture
def kb(address: str, encoder: HashingEncoder) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.create(address, encoder=encoder) as made:
        yield made


@pytest.fixture
def cutting(postgres: PostgresServer) -> Iterator[Callable[..., CuttingProxy]]:
    """Makes a proxy in a folder of its own (a socket's path is short)."""
    folder = Path(tempfile.mkdtemp(prefix="rag_infer_proxy_"))
    made: list[CuttingProxy] = []

    def make(*, deliver: bool) -> CuttingProxy:
        made.append(CuttingProxy(folder, postgres.folder / ".s.PGSQL.5432", deliver=deliver))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()
    shutil.rmtree(folder)


def through(address: str, proxy: CuttingProxy) -> str:
    head, _, rest = address.partition("host=")
    return f"{head}host={proxy.folder}&{rest.partition('&')[2]}"


def test_a_restart_in_the_middle(
    kb: KnowledgeBase, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgvector_pool, "PAUSE", 0.02)
    kb.upsert(PASSAGES)
    before = kb.search("cat")
    postgres.stop()
    try:
        with pytest.raises(LostConnectionError, match=r"postgresql://.*test_\d+: connection"):
            kb.search("cat")
        with pytest.raises(LostConnectionError):
            kb.upsert([Passage("d", "text")])
        with pytest.raises(KnowledgeBaseError):
            kb.delete(["a"])
    finally:
        postgres.start()
    assert kb.search("cat") == before
    assert kb.upsert([Passage("d", "text")]) == Upserted(added=1)
    assert kb.delete(["a"]) == ["a"]
    assert (kb.revision, kb.check().passages) == (3, 3)


def test_a_search_waits_for_a_restarting_server(kb: KnowledgeBase, postgres: PostgresServer) -> None:
    kb.upsert(PASSAGES)
    before = kb.search("cat")
    postgres.stop()
    starting = threading.Thread(target=postgres.start)
    starting.start()
    try:
        assert kb.search("cat") == before
    finally:
        starting.join()


def test_connections_cut_during_searches_and_upserts(kb: KnowledgeBase, postgres: PostgresServer) -> None:
    vectors = vectors_of(40)
    kb.upsert([Passage(f"p{i}", "text") for i in range(40)], vectors)
    expected = kb.search_vectors(vectors[:5], 10)
    stop = threading.Event()
    cuts = []

    # Not in step with what is tried again: a slow machine would then lose every attempt.
    pauses = np.random.default_rng(0)

    def cut() -> None:
        while not stop.wait(pauses.uniform(0.02, 0.28)):
            cuts.append(postgres.cut_off())

    cutter = threading.Thread(target=cut)
    cutter.start()
    added = 0
    try:
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            assert kb.search_vectors(vectors[:5], 10, where={"new": {"$exists": False}}) == expected
            batch = [Passage(f"n{added + i}", "text", metadata={"new": True}) for i in range(30)]
            assert kb.upsert(batch, vectors[:30]) == Upserted(added=30)
            assert kb.delete([f"n{added}"]) == [f"n{added}"]
            added += 30
    finally:
        stop.set()
        cutter.join()
    assert sum(cuts) >= 10
    # Every upsert and every delete counted once, whenever its connection was cut.
    assert kb.revision == 1 + 2 * added // 30
    assert len(kb) == 40 + added - added // 30
    kb.check()


def test_a_cut_in_the_middle_of_a_stream_leaves_nothing(
    kb: KnowledgeBase, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PASSAGES_PER_PIECE", 5)

    def source(*, cut: bool) -> Iterator[Passage]:
        for i in range(100):
            if cut and i == 70:
                assert postgres.cut_off(but="idle") >= 1
            yield Passage(f"p{i}", f"text {i}")

    with pytest.raises(LostConnectionError):
        kb.upsert(source(cut=True))
    assert (len(kb), kb.revision) == (0, 0)
    assert kb.upsert(source(cut=False)) == Upserted(added=100)
    kb.check()


@pytest.mark.parametrize("deliver", [True, False])
def test_a_commit_that_was_cut_off_counts_once(
    kb: KnowledgeBase, address: str, cutting: Callable[..., CuttingProxy], deliver: bool
) -> None:
    proxy = cutting(deliver=deliver)
    with KnowledgeBase.open(through(address, proxy), encoder=HashingEncoder()) as other:
        proxy.arm()
        assert other.upsert(PASSAGES) == Upserted(added=3)
        assert (proxy.cuts, other.revision, len(other)) == (1, 1, 3)
        proxy.arm()
        assert other.delete(["a", "x"]) == ["a"]
        assert (proxy.cuts, other.revision) == (2, 2)
    assert sorted(p.id for p in kb.search("cat")) == ["b", "c"]
    kb.check()


def test_no_password_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgvector_pool, "PAUSE", 0.01)
    monkeypatch.setattr(qdrant_server, "PAUSE", 0.01)
    for address in (
        "postgresql://me:top-secret@localhost:1/db?connect_timeout=1",
        "postgresql://me:top-secret@local host/db?nonsense",
        "postgresql://localhost:1/db?password=top-secret&nonsense=1",
        "qdrant+https://:top-secret@localhost:1/docs",
    ):
        with pytest.raises(KnowledgeBaseError) as raised:
            KnowledgeBase.open(address)
        shown: BaseException | None = raised.value
        while shown is not None:
            assert "top-secret" not in str(shown)
            assert "top-secret" not in repr(shown)
            shown = shown.__cause__
