"""Answer a question set and measure: retrieval, answers, latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rag_infer.engine import RagEngine
from rag_infer.evaluate.questions import Question
from rag_infer.evaluate.squad import best_over, exact_match, f1
from rag_infer.knowledge import SearchConfig
from rag_infer.timing import Stopwatch

HIT_RANKS = (1, 5, 10)
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of one run.

    Attributes:
        questions: how many were answered.
        with_gold_passage: how many name a gold passage; the hit rates are over these.
        hits: by rank k, the share of questions whose gold passage is among the first k, or None without any.
        exact_match, f1: means over the questions, best over each question's accepted answers; None where no answer was
            generated.
        latency_ms: by stage, by percentile ("p50"), milliseconds per question asked alone.
    """

    questions: int
    with_gold_passage: int
    hits: dict[int, float] | None
    exact_match: float | None
    f1: float | None
    latency_ms: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def evaluate(
    engine: RagEngine,
    questions: Sequence[Question],
    *,
    settings: Mapping[str, Any] | None = None,
    search: SearchConfig | None = None,
    where: Mapping[str, Any] | None = None,
    on_question: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Ask every question, one at a time.

    Args:
        engine: answers.
        questions: at least one.
        settings, search, where: as for `RagEngine.generate`.
        on_question: called after each.
    """
    ranks: list[int | None] = []
    matches: list[float] = []
    overlaps: list[float] = []
    timings: list[Mapping[str, float]] = []
    for question in questions:
        answer = engine.generate(question.query, search=search, where=where, **(settings or {}))
        matches.append(best_over(exact_match, answer.text, question.answers))
        overlaps.append(best_over(f1, answer.text, question.answers))
        timings.append(answer.timings)
        if question.passage_id is not None:
            ranks.append(_rank(engine, question, search, where))
        on_question()
    return Evaluation(
        questions=len(questions),
        with_gold_passage=len(ranks),
        hits=_hit_rates(ranks),
        exact_match=float(np.mean(matches)),
        f1=float(np.mean(overlaps)),
        latency_ms=_percentiles(timings),
    )


def evaluate_retrieval(
    engine: RagEngine,
    questions: Sequence[Question],
    *,
    search: SearchConfig | None = None,
    where: Mapping[str, Any] | None = None,
    on_question: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Search for every question, one at a time, and generate nothing; arguments as for `evaluate`."""
    ranks: list[int | None] = []
    timings: list[Mapping[str, float]] = []
    for question in questions:
        watch = Stopwatch()
        with watch.measure("search"):
            rank = _rank(engine, question, search, where)
        timings.append({"search": watch.timings()["search"]})
        if question.passage_id is not None:
            ranks.append(rank)
        on_question()
    return Evaluation(
        questions=len(questions),
        with_gold_passage=len(ranks),
        hits=_hit_rates(ranks),
        exact_match=None,
        f1=None,
        latency_ms=_percentiles(timings),
    )


def _rank(
    engine: RagEngine, question: Question, search: SearchConfig | None, where: Mapping[str, Any] | None
) -> int | None:
    """Position of the gold passage, counted from 1, or None where it is not among the first."""
    found = engine.search(question.query, k=max(HIT_RANKS), search=search, where=where)
    return next((i for i, p in enumerate(found, start=1) if p.id == question.passage_id), None)


def _hit_rates(ranks: Sequence[int | None]) -> dict[int, float] | None:
    if not ranks:
        return None
    return {k: sum(r is not None and r <= k for r in ranks) / len(ranks) for k in HIT_RANKS}


def _percentiles(timings: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {
        stage: {f"p{p}": float(np.percentile([t[stage] for t in timings], p)) for p in PERCENTILES}
        for stage in timings[0]
    }
