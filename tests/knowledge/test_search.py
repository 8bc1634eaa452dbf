"""Search against obviously right twins: numpy in float64, and a dictionary with the same history."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag_infer.knowledge import KnowledgeBase, Passage
from tests.knowledge.encoders import HashingEncoder


def twin(
    passages: dict[str, Passage], order: list[str], question: str, k: int, where: dict[str, object] | None
) -> list[tuple[str, float]]:
    """Ids and float64 scores, best first; ``order`` is that of the last change."""
    encoder = HashingEncoder()
    query = encoder.encode([question])[0].astype(np.float64)
    found = []
    for id_ in order:
        passage = passages[id_]
        if all(passage.metadata.get(name) == value for name, value in (where or {}).items()):
            found.append((id_, float(encoder.encode([passage.text])[0].astype(np.float64) @ query)))
    return sorted(found, key=lambda hit: -hit[1])[:k]


WORDS = st.sampled_from(["red", "green", "blue", "deep", "sea", "sky"])
TEXTS = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
IDS = st.sampled_from([f"p{i}" for i in range(12)])
PASSAGES = st.builds(Passage, IDS, TEXTS, metadata=st.fixed_dictionaries({"kind": st.integers(0, 2)}))
STEPS = st.one_of(
    st.tuples(st.just("upsert"), st.lists(PASSAGES, min_size=1, max_size=6)),
    st.tuples(st.just("delete"), st.lists(IDS, min_size=1, max_size=3)),
    st.tuples(st.just("compact"), st.none()),
    st.tuples(st.just("index"), st.sampled_from(["exact", "hnsw"])),
    st.tuples(st.just("reopen"), st.none()),
)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    st.lists(STEPS, min_size=1, max_size=8), TEXTS, st.integers(1, 15), st.none() | st.integers(0, 3)
)
def test_any_history_searches_like_a_dictionary(
    steps: list[tuple[str, object]], question: str, k: int, kind: int | None
) -> None:
    passages: dict[str, Passage] = {}
    order: list[str] = []
    where = None if kind is None else {"kind": kind}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kb"
        kb = KnowledgeBase.create(path, encoder=HashingEncoder(), rows_per_segment=5, threads=1)
        try:
            for step, argument in steps:
                if step == "reopen":
                    kb.close()
                    kb = KnowledgeBase.open(path, encoder=HashingEncoder(), threads=1)
                _apply(kb, passages, order, step, argument)
            found = [(p.id, p.score) for p in kb.search(question, k=k, where=where)]
            assert len(kb) == len(passages)
            assert dict(zip(order, kb.get(order), strict=True)) == passages
            kb.check()
        finally:
            kb.close()
    expected = twin(passages, order, question, k, where)
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-4)
    # Only scores that differ in float32 have a certain order.
    scores = dict(twin(passages, order, question, len(order) or 1, where))
    assert [scores[i] for i, _ in found] == pytest.approx([score for _, score in found], abs=1e-4)
    assert len({i for i, _ in found}) == len(found)


def _apply(
    kb: KnowledgeBase, passages: dict[str, Passage], order: list[str], step: str, argument: object
) -> None:
    if step == "upsert":
        assert isinstance(argument, list)
        kb.upsert(argument)
        for id_, passage in {p.id: p for p in argument}.items():
            if passages.get(id_) != passage:
                if id_ in order:
                    order.remove(id_)
                order.append(id_)
            passages[id_] = passage
    elif step == "delete":
        assert isinstance(argument, list)
        assert set(kb.delete(argument)) == {i for i in argument if passages.pop(i, None)}
        order[:] = [i for i in order if i in passages]
    elif step == "compact":
        kb.compact()
    elif step == "index":
        assert isinstance(argument, str)
        kb.build_index(argument)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_exact_search_equals_numpy_in_float64(tmp_path: Path, similarity: str) -> None:
    generator = np.random.default_rng(3)
    vectors = generator.standard_normal((500, 24)).astype(np.float32)
    queries = generator.standard_normal((9, 24)).astype(np.float32)
    encoder = HashingEncoder(24, similarity=similarity)
    with KnowledgeBase.create(tmp_path / "kb", encoder=encoder, rows_per_segment=64) as kb:
        kb.upsert([Passage(str(i), "text") for i in range(500)], vectors)
        found = kb.search_vectors(queries, 20)
    scores = _scores(vectors, queries, similarity)
    for hits, row in zip(found, scores, strict=True):
        assert [int(p.id) for p in hits] == np.argsort(-row, kind="stable")[:20].tolist()
        np.testing.assert_allclose([p.score for p in hits], np.sort(row)[::-1][:20], rtol=1e-5, atol=1e-5)


def _scores(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], similarity: str
) -> NDArray[np.float64]:
    rows, wide = vectors.astype(np.float64), queries.astype(np.float64)
    if similarity == "cosine":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return wide @ rows.T


def test_equal_scores_come_in_order_of_age(tmp_path: Path) -> None:
    with KnowledgeBase.create(tmp_path / "kb", encoder=HashingEncoder(), rows_per_segment=3) as kb:
        kb.upsert([Passage(f"p{i}", "same words") for i in range(10)])
        kb.upsert([Passage("p4", "words same")])
        for kind in ("exact", "hnsw"):
            kb.build_index(kind)
            ids = [p.id for p in kb.search("same words", k=20)]
            assert ids == ["p0", "p1", "p2", "p3", "p5", "p6", "p7", "p8", "p9", "p4"]


def test_several_questions_are_searched_as_one_at_a_time(kb: KnowledgeBase) -> None:
    kb.upsert([Passage(f"p{i}", f"word{i} word{i % 5}") for i in range(50)])
    questions = [f"word{i}" for i in range(20)]
    assert kb.search(questions, k=7) == [kb.search(q, k=7) for q in questions]
