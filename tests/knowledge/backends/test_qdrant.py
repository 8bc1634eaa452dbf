"""What Qdrant adds: no transactions, requests of a limited size, and locally files that anybody may change."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from rag_infer import _kernels
from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge import KnowledgeBase, Passage
from rag_infer.knowledge.backends import qdrant_state
from rag_infer.knowledge.backends.protocol import Piece
from rag_infer.knowledge.backends.qdrant import QdrantBackend
from rag_infer.knowledge.backends.qdrant_payload import point_id
from rag_infer.knowledge.backends.qdrant_points import BYTES_AT_ONCE, POINTS_AT_ONCE, in_requests
from rag_infer.knowledge.remote import RemoteKnowledgeBase
from tests.knowledge.backends.test_contract import PASSAGES, numbered, vectors_of
from tests.knowledge.encoders import HashingEncoder


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"qdrant+file://{tmp_path}/qdrant/docs"


@pytest.fixture
def kb(address: str, encoder: HashingEncoder) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.create(address, encoder=encoder) as made:
        yield made


def client_of(kb: KnowledgeBase) -> QdrantClient:
    assert isinstance(kb, RemoteKnowledgeBase)
    assert isinstance(kb.backend, QdrantBackend)
    return kb.backend._server._client


def test_threads_that_write_and_search_together(kb: KnowledgeBase, encoder: HashingEncoder) -> None:
    errors: list[BaseException] = []

    def attempt(work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:
            errors.append(error)

    def write(name: int) -> None:
        for batch in range(4):
            kb.upsert([Passage(f"{name}-{batch}-{i}", f"word{name} {batch} {i}") for i in range(10)])

    def search() -> None:
        for _ in range(30):
            kb.search("word1 2 3", k=20)

    jobs = [*(lambda name=name: write(name) for name in range(3)), search]
    threads = [threading.Thread(target=attempt, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (len(kb), kb.revision) == (120, 12)
    found = kb.search("word1 2 3", k=200)
    assert len({p.id for p in found}) == 120
    scores, _ = _kernels.topk(encoder.encode([p.text for p in found]), encoder.encode(["word1 2 3"]), 120)
    assert sorted((p.score for p in found), reverse=True) == scores[0].tolist()
    for passage in found:
        own, _ = _kernels.topk(encoder.encode([passage.text]), encoder.encode(["word1 2 3"]), 1)
        assert passage.score == own[0, 0]
    kb.check()


def test_passages_of_the_same_age_are_told_apart(kb: KnowledgeBase) -> None:
    """As two processes leave them that wrote at the same time."""
    vectors = vectors_of(8)
    kb.upsert(numbered(8), vectors)
    client = client_of(kb)
    client.set_payload("docs", {"age": 3}, points=[point_id(f"p{i}") for i in range(8)])
    for i in range(8):
        found = kb.search_vectors(vectors[i : i + 1], 8)[0]
        assert len({p.id for p in found}) == 8
        expected = {
            f"p{j}": float(_kernels.topk(vectors[j : j + 1], vectors[i : i + 1], 1)[0][0, 0])
            for j in range(8)
        }
        assert {p.id: p.score for p in found} == expected


def test_more_than_there_are(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    kb.upsert(PASSAGES)
    limits = []
    query_points = QdrantClient.query_points

    def noting(self: QdrantClient, *args: object, **options: object) -> object:
        limits.append(options["limit"])
        return query_points(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(QdrantClient, "query_points", noting)
    assert len(kb.search("cat", k=10**9)) == 3
    assert max(limits) < 100  # type: ignore[type-var]  # a server makes room for as many


def test_a_creation_that_was_cut_off_is_begun_again(
    address: str, encoder: HashingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(qdrant_state, "write", cut)
        with pytest.raises(KeyboardInterrupt):
            KnowledgeBase.create(address, encoder=encoder)
    with pytest.raises(KnowledgeBaseError, match="open it, or choose another name"):
        KnowledgeBase.create(address, encoder=HashingEncoder(dim=8))  # not what was begun
    with pytest.raises(KnowledgeBaseError, match="no knowledge base at"):
        KnowledgeBase.open(address)
    with KnowledgeBase.create(address, encoder=encoder) as kb:
        kb.upsert(PASSAGES)
    with pytest.raises(KnowledgeBaseError, match="open it, or choose another name"):
        KnowledgeBase.create(address, encoder=encoder)


def test_nothing_is_made_where_something_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeBaseError, match="no knowledge base at"):
        KnowledgeBase.open(f"qdrant+file://{tmp_path}/no/docs")
    assert not (tmp_path / "no").exists()


def test_a_folder_of_something_else(address: str, tmp_path: Path, encoder: HashingEncoder) -> None:
    KnowledgeBase.create(address, encoder=encoder).close()
    (tmp_path / "qdrant/collection/docs/storage.sqlite").write_bytes(b"garbage" * 1000)
    with pytest.raises(CorruptIndexError, match="not as qdrant-client wrote it: DatabaseError"):
        KnowledgeBase.open(address)
    (tmp_path / "qdrant/meta.json").write_text("{}")
    with pytest.raises(CorruptIndexError, match="not as qdrant-client wrote it: KeyError"):
        KnowledgeBase.open(address)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"text": "something else"}, "differs from its digest"),
        ({"metadata": "{}"}, "differs from its digest"),
        ({"labels": []}, "something else for conditions"),
        ({"age": 99}, "beyond what the state knows"),
        ({"id": "b2"}, "is another one's"),
        ({"metadata": "{"}, "is no passage"),
        ({"digest": 5}, "has no digest"),
    ],
)
def test_damage_is_found(kb: KnowledgeBase, payload: dict[str, object], message: str) -> None:
    kb.upsert(PASSAGES)
    client_of(kb).set_payload("docs", payload, points=[point_id("b")])
    with pytest.raises(CorruptIndexError, match=message):
        kb.check()


def test_a_point_of_somebody_else(kb: KnowledgeBase) -> None:
    kb.upsert(PASSAGES)
    client_of(kb).upsert("docs", [models.PointStruct(id=point_id("x"), vector=[9.0] * 16, payload={})])
    for work in (lambda: kb.get(["x"]), lambda: kb.delete(["x"]), lambda: kb.search("cat"), kb.check):
        with pytest.raises(CorruptIndexError, match="is no passage"):
            work()


def test_a_newer_format_is_refused(kb: KnowledgeBase) -> None:
    settings = json.dumps({"format_version": 9})
    state = {"state": {"of": "another kind"}, "settings": settings}
    client_of(kb).overwrite_payload("docs" + qdrant_state.SUFFIX, state, points=[qdrant_state.POINT])
    with pytest.raises(KnowledgeBaseError, match="format_version 9, this rag_infer reads up to 1: upgrade"):
        kb.search("cat")


def test_requests_are_small_enough() -> None:
    large = [Passage(f"p{i}", "x" * 900_000, metadata={"n": i}) for i in range(10)]
    small = [Passage(f"q{i}", "text") for i in range(600)]
    piece = Piece([*large, *small], [b""] * 610, np.zeros((610, 16), dtype=np.float32), {})
    parts = list(in_requests(piece, range(610)))
    assert [i for part in parts for i in part] == list(range(610))
    assert max(map(len, parts)) == POINTS_AT_ONCE
    for part in parts:
        assert len(part) == 1 or sum(len(piece.passages[i].text) for i in part) * 4 < BYTES_AT_ONCE


def test_a_fork_is_told_to_open_it_again(kb: KnowledgeBase) -> None:
    kb.upsert(PASSAGES)
    child = os.fork()
    if child == 0:
        try:
            kb.search("cat")
        except KnowledgeBaseError as error:
            os._exit(7 if "of which this is a fork" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(kb.search("cat")) == 3
