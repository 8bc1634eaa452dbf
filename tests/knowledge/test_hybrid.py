"""Search by words, and by words and vectors, through a knowledge base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge import KnowledgeBase, Passage, ScoredPassage, SearchConfig
from rag_infer.knowledge.fusion import Ranking, reciprocal_rank, weighted_scores
from tests.knowledge.encoders import HashingEncoder

QUESTIONS = ["word3 word1", "word7 text of word2", "word0", "word11 word11 word4 word5"]


@pytest.fixture
def filled(kb: KnowledgeBase) -> KnowledgeBase:
    """60 passages, 10 of them dead, in several files."""
    kb.upsert([Passage(f"p{i}", f"word{i} word{i % 7} text", metadata={"third": i % 3}) for i in range(60)])
    kb.delete([f"p{i}" for i in range(0, 60, 6)])
    return kb


def side(found: Sequence[ScoredPassage]) -> Ranking:
    """A result as a ranking whose rows are the numbers in the ids, which are in the order of the rows."""
    scores = np.array([p.score for p in found], dtype=np.float32)
    return Ranking(scores, np.array([int(p.id[1:]) for p in found], dtype=np.int64))


def assert_same(found: Sequence[ScoredPassage], expected: Ranking, k: int) -> None:
    assert [int(p.id[1:]) for p in found] == expected.rows[:k].tolist()
    assert [p.score for p in found] == pytest.approx(expected.scores[:k].tolist(), abs=1e-6)


@pytest.mark.parametrize("where", [None, {"third": 1}])
@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_reciprocal_rank_joins_the_two_searches(
    filled: KnowledgeBase, where: dict[str, int] | None, kind: str
) -> None:
    filled.build_index(kind)
    for question in QUESTIONS:
        dense = side(filled.search(question, 10, where=where))
        lexical = side(filled.search(question, 10, where=where, mode="lexical"))
        for alpha in (0.0, 0.3, 0.5, 1.0):
            expected = reciprocal_rank([dense, lexical], weights=(alpha, 1 - alpha), constant=10)
            settings = {"fusion": "reciprocal_rank", "alpha": alpha, "rank_constant": 10, "candidates": 10}
            found = filled.search(question, 10, where=where, mode="hybrid", **settings)
            assert_same(found, expected, 10)


@pytest.mark.parametrize("where", [None, {"third": 1}])
def test_the_mixture_knows_the_dense_score_of_every_candidate(
    filled: KnowledgeBase, where: dict[str, int] | None
) -> None:
    for question in QUESTIONS:
        every = side(filled.search(question, 60, where=where))
        lexical = side(filled.search(question, 4, where=where, mode="lexical"))
        candidates = np.union1d(every.rows[:4], lexical.rows)
        among = np.isin(every.rows, candidates)
        dense = Ranking(every.scores[among], every.rows[among])
        expected = weighted_scores(dense, lexical, alpha=0.4, dense_scale=0.5)
        settings = {"fusion": "weighted", "alpha": 0.4, "dense_scale": 0.5, "candidates": 4}
        assert_same(filled.search(question, 4, where=where, mode="hybrid", **settings), expected, 4)


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
@pytest.mark.parametrize("fusion", ["weighted", "reciprocal_rank"])
def test_several_questions_are_searched_as_one_at_a_time(
    filled: KnowledgeBase, mode: str, fusion: str
) -> None:
    config = SearchConfig(mode=mode, fusion=fusion, candidates=8)
    for where in (None, {"third": 2}):
        found = filled.search(QUESTIONS, 5, where=where, search=config)
        assert found == [filled.search(q, 5, where=where, search=config) for q in QUESTIONS]
        for passages in found:
            assert {p.metadata["third"] for p in passages} <= ({2} if where else {0, 1, 2})
            assert all(int(p.id[1:]) % 6 for p in passages)


def test_k_above_the_candidates_and_above_all(filled: KnowledgeBase) -> None:
    assert len(filled.search("word3", 40, mode="hybrid", candidates=2)) == 40
    assert len(filled.search("word3", 1000, mode="hybrid")) == 50
    assert len(filled.search("word3", 1000, mode="hybrid", where={"third": 1})) == 20
    assert filled.search("word3", 5, mode="hybrid", where={"third": 9}) == []


def test_a_question_without_words_that_are_known(filled: KnowledgeBase) -> None:
    assert filled.search("nothing!", 3, mode="lexical") == []
    assert filled.search("?!", 3, mode="lexical") == []
    dense = [p.id for p in filled.search("nothing!", 3)]
    for fusion in ("weighted", "reciprocal_rank"):
        assert [p.id for p in filled.search("nothing!", 3, mode="hybrid", fusion=fusion)] == dense
        assert filled.search("nothing!", 3, mode="hybrid", fusion=fusion, alpha=0.0) == []


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_an_empty_knowledge_base(kb: KnowledgeBase, mode: str) -> None:
    assert kb.search("word", mode=mode) == []
    assert kb.search(["word", "other"], mode=mode) == [[], []]
    assert kb.search([], mode=mode) == []


def test_words_need_no_encoder(filled: KnowledgeBase, encoder: HashingEncoder) -> None:
    before = encoder.encoded
    expected = filled.search("word3 word9", mode="lexical")
    assert encoder.encoded == before
    with KnowledgeBase.open(filled.folder) as other:
        assert other.search("word3 word9", mode="lexical") == expected
        with pytest.raises(KnowledgeBaseError, match="texts cannot be encoded"):
            other.search("word3", mode="hybrid")


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
def test_under_cosine(tmp_path: Path, mode: str) -> None:
    with KnowledgeBase.create(tmp_path / "kb", encoder=HashingEncoder(similarity="cosine")) as kb:
        kb.upsert([Passage("a", "the deep sea"), Passage("b", "a blue sky"), Passage("c", "a red house")])
        assert kb.search("sea", 1, mode=mode)[0].id == "a"


def test_after_compaction_the_same_is_found(filled: KnowledgeBase) -> None:
    configs = [SearchConfig(mode="lexical"), SearchConfig(mode="hybrid", dense_scale=0.1)]
    before = [filled.search(QUESTIONS, 7, search=config) for config in configs]
    filled.compact()
    assert [filled.search(QUESTIONS, 7, search=config) for config in configs] == before


def test_refused(filled: KnowledgeBase, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode must be one of dense, lexical, hybrid, got 'bm25'"):
        filled.search("word", mode="bm25")
    with pytest.raises(TypeError, match="unknown search setting 'weight'"):
        filled.search("word", weight=1)
    with pytest.raises(ValueError, match="k must be at least 1"):
        filled.search("word", 0, mode="lexical")
    with pytest.raises(ValueError, match="the question is empty"):
        filled.search(" ", mode="lexical")
    config = SearchConfig(mode="hybrid")
    with pytest.raises(ValueError, match="vectors"):
        filled.search_questions(["a", "b"], np.zeros((1, 16), dtype=np.float32), 3, search=config)
    for mode in ("dense", "hybrid"):
        with pytest.raises(ValueError, match=f"mode '{mode}' needs the questions' vectors"):
            filled.search_questions(["a"], None, 3, search=SearchConfig(mode=mode))
