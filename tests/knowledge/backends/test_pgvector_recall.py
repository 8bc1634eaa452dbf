"""The recall of PostgreSQL's HNSW index: measured against the exact kernel, kept, and what happens where it is poor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from rag_infer import _kernels
from rag_infer.errors import KnowledgeBaseError, RagInferWarning
from rag_infer.knowledge import KnowledgeBase
from rag_infer.knowledge.backends import pgvector_graph
from tests.knowledge.backends.server import PostgresServer
from tests.knowledge.backends.test_contract import numbered, vectors_of
from tests.knowledge.backends.test_pgvector import schema
from tests.knowledge.encoders import HashingEncoder

PASSAGES = 3000
POOR = ((2, 4),)


@pytest.fixture
def address(postgres: PostgresServer) -> str:
    # So few candidates that a small graph is a poor one.
    return postgres.address(options="&ef_search=1")


@pytest.fixture
def kb(address: str, encoder: HashingEncoder) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.create(address, encoder=encoder) as made:
        made.upsert(numbered(PASSAGES), vectors_of(PASSAGES))
        yield made


def recall_by_hand(
    kb: KnowledgeBase, queries: np.ndarray[tuple[int, int], np.dtype[np.float32]], k: int
) -> float:
    """Of the k nearest by the kernel, those that a search for 50 has among its first k."""
    scores, _ = _kernels.topk(vectors_of(PASSAGES), queries, k)
    found = kb.search_vectors(queries, 50)
    hits = [
        p.score >= worst for hit, worst in zip(found, scores[:, -1].tolist(), strict=True) for p in hit[:k]
    ]
    return float(np.mean(hits))


def test_it_is_measured_with_the_queries_given(
    kb: KnowledgeBase, postgres: PostgresServer, address: str
) -> None:
    queries = vectors_of(60, seed=1)
    assert kb.info()["recall"] is None
    assert kb.build_index("hnsw", queries=queries, min_recall=0.5)
    info = kb.info()
    assert (info["search"], info["recall_queries"], info["recall_source"]) == ("hnsw", 60, "given")
    assert sorted(info["recall"]) == ["@1", "@10", "@5", "@50"]
    postgres.run("ALTER ROLE postgres IN DATABASE postgres SET enable_seqscan = off")
    try:
        with KnowledgeBase.open(address) as fresh:
            for k in (1, 5, 10, 50):
                assert info["recall"][f"@{k}"] == pytest.approx(recall_by_hand(fresh, queries, k), abs=1e-9)
    finally:
        postgres.run("ALTER ROLE postgres IN DATABASE postgres RESET enable_seqscan")
    assert not kb.build_index("hnsw")  # what is known is not measured again
    assert kb.info() == info


def test_stored_vectors_are_left_out_of_their_own_answers(
    kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgvector_graph, "GRAPHS", POOR)
    with pytest.raises(ValueError, match="min_recall must be from 0 to 1"):
        kb.build_index("hnsw", min_recall=1.5)
    with pytest.raises(ValueError, match="at least one question"):
        kb.build_index("hnsw", queries=[])
    assert kb.build_index("hnsw", min_recall=0.05)
    info = kb.info()
    assert (info["recall_queries"], info["recall_source"]) == (200, "stored")
    assert info["recall"]["@50"] < info["recall"]["@1"] < 1
    assert kb.build_index(queries=["cat", "dog"])
    assert (kb.info()["recall_queries"], kb.info()["recall_source"]) == (2, "given")


def test_a_poor_index_is_made_larger(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgvector_graph, "GRAPHS", (*POOR, (16, 64)))
    kb.build_index("hnsw", min_recall=0.1)
    poor = kb.info()["recall"]["@10"]
    assert kb.build_index(min_recall=poor + 0.1)
    assert kb.info()["recall"]["@10"] >= poor + 0.1
    assert kb.info()["search"] == "hnsw"
    kb.compact()  # which measures again, and asks for as much
    assert kb.info()["search"] == "hnsw"
    assert not kb.build_index()


def test_an_index_that_stays_poor_is_refused_and_search_exact(
    kb: KnowledgeBase, postgres: PostgresServer, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgvector_graph, "GRAPHS", POOR)
    queries = vectors_of(20, seed=1)
    with pytest.warns(
        RagInferWarning, match=r"none finds 0\.99 of the 10 nearest passages: 0\.\d+ with m=2, ef_search"
    ):
        assert not kb.build_index("hnsw", min_recall=0.99, queries=queries)
    info = kb.info()
    assert (info["search"], info["recall"], info["index"]) == ("exact", None, "hnsw")
    left = postgres.run("SELECT indexname FROM pg_indexes WHERE schemaname = %s", [schema(address)])
    assert "passages_hnsw" not in {name for (name,) in left}
    assert recall_by_hand(kb, queries, 10) == 1


def test_an_index_that_was_not_measured_is_not_searched(
    kb: KnowledgeBase, postgres: PostgresServer, address: str
) -> None:
    name = schema(address)
    postgres.run(f'CREATE INDEX passages_hnsw ON "{name}".passages USING hnsw (embedding vector_ip_ops)')
    assert kb.info()["search"] == "exact"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kb.build_index("hnsw", min_recall=0.3)
    assert (kb.info()["search"], kb.info()["recall_queries"]) == ("hnsw", 200)


def test_few_passages_and_none(postgres: PostgresServer, encoder: HashingEncoder) -> None:
    with KnowledgeBase.create(postgres.address(), encoder=encoder, index="hnsw") as kb:
        assert kb.build_index()
        assert (kb.info()["search"], kb.info()["recall"]) == ("hnsw", {})
        kb.upsert(numbered(7), vectors_of(7))
        kb.compact()
        assert kb.info()["recall"] == {"@1": 1.0, "@5": 1.0}


def test_qdrant_measures_nothing(encoder: HashingEncoder, tmp_path: object) -> None:
    with KnowledgeBase.create(f"qdrant+file://{tmp_path}/docs", encoder=encoder) as kb:
        for options in ({"min_recall": 0.9}, {"queries": ["cat"]}):
            with pytest.raises(KnowledgeBaseError, match="not for Qdrant"):
                kb.build_index("hnsw", **options)  # type: ignore[arg-type]
        with pytest.raises(KnowledgeBaseError, match="scan is for folders only"):
            kb.build_index("hnsw", scan="int8")
