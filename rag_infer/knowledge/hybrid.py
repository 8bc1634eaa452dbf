"""A search by words, or by words and vectors, at one revision."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag_infer.knowledge.fusion import Ranking, reciprocal_rank, weighted_scores
from rag_infer.knowledge.lexical import lexical_search
from rag_infer.knowledge.search_config import SearchConfig
from rag_infer.knowledge.view import View

# (the k best scores float32 [queries, k], their rows int64 [queries, k], -1 where there is none) of query vectors.
DenseSearch = Callable[[NDArray[np.float32], int], tuple[NDArray[np.float32], NDArray[np.int64]]]


@dataclass(frozen=True, kw_only=True)
class TextSearch:
    """What a search by words needs to know of the questions.

    Attributes:
        questions: their texts.
        config: of mode "lexical" or "hybrid".
        score_scale: factor on dense scores where the config names none.
    """

    questions: Sequence[str]
    config: SearchConfig
    score_scale: float = 1.0


def search_texts(
    connection: sqlite3.Connection,
    view: View,
    request: TextSearch,
    queries: NDArray[np.float32],
    k: int,
    *,
    mask: NDArray[np.bool_] | None,
    dense: DenseSearch,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best rows per question, best first, ties to the lower row.

    Args:
        connection, view: of the same revision.
        request: the questions and how to search.
        queries: their vectors, float32 ``[questions, dim]``; "lexical" does not look at them.
        k: how many.
        mask: bool ``[rows]``: only these rows; None for all that are alive.
        dense: searches vectors among the same rows.

    Returns:
        (scores float32 ``[questions, k]``, rows int64 ``[questions, k]``); missing ones are row -1.
    """
    scores = np.full((len(request.questions), k), -np.inf, dtype=np.float32)
    rows = np.full((len(request.questions), k), -1, dtype=np.int64)
    config = request.config
    hybrid = config.mode == "hybrid"
    count = min(max(k, config.candidates), view.state.passages) if hybrid else k
    near, near_rows = dense(queries, count) if hybrid else (scores, rows)
    for i, question in enumerate(request.questions):
        weight = config.title_weight
        found = Ranking(*lexical_search(connection, question, count, mask=mask, title_weight=weight))
        if hybrid:
            there = near_rows[i] >= 0
            found = _fused(view, request, Ranking(near[i][there], near_rows[i][there]), found, queries[i])
        kept = min(k, len(found.rows))
        scores[i, :kept], rows[i, :kept] = found.scores[:kept], found.rows[:kept]
    return scores, rows


def _fused(
    view: View, request: TextSearch, dense: Ranking, lexical: Ranking, query: NDArray[np.float32]
) -> Ranking:
    config = request.config
    if config.fusion == "reciprocal_rank":
        weights = (config.alpha, 1 - config.alpha)
        return reciprocal_rank([dense, lexical], weights=weights, constant=config.rank_constant)
    # What only the words found has a vector all the same: its dense score is worked out, not taken for nothing.
    new = np.setdiff1d(lexical.rows, dense.rows)
    if new.size:
        more = view.vectors.scores(new[None], query[None])[0]
        dense = Ranking(np.concatenate([dense.scores, more]), np.concatenate([dense.rows, new]))
    scale = request.score_scale if config.dense_scale is None else config.dense_scale
    return weighted_scores(
        dense, lexical, alpha=config.alpha, dense_scale=scale, lexical_scale=config.lexical_scale
    )
