"""Settings of a search: what is refused, and how scores become priors."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rag_infer import SearchConfig
from rag_infer.knowledge import KnowledgeBase


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"mode": "sparse"}, ValueError, "mode must be one of dense, lexical, hybrid, got 'sparse'"),
        (
            {"fusion": "sum"},
            ValueError,
            "fusion must be one of reciprocal_rank, weighted, concat, weighted_average, score, rrf, max, got 'sum'",
        ),
        ({"alpha": 1.5}, ValueError, "alpha must be from 0 to 1, got 1.5"),
        ({"alpha": math.nan}, ValueError, "alpha must be from 0 to 1, got nan"),
        ({"alpha": "half"}, TypeError, "alpha must be a number, got 'half'"),
        ({"candidates": 0}, ValueError, "candidates must be at least 1, got 0"),
        ({"candidates": 10.0}, TypeError, "candidates must be a whole number, got 10.0"),
        ({"rank_constant": -1}, ValueError, "rank_constant must be from 0 to 1e\\+09, got -1"),
        (
            {"title_weight": math.inf},
            ValueError,
            "title_weight must be from 0 to 1e\\+09, got a number beyond",
        ),
        ({"dense_scale": -2.0}, ValueError, "dense_scale must be from 0 to 1e\\+09, got -2.0"),
        ({"lexical_scale": True}, TypeError, "lexical_scale must be a number, got True"),
        ({"rank_constant": 10**400}, ValueError, "from 0 to 1e\\+09, got a number beyond 1e300"),
        ({"alpha": -(10**5000)}, ValueError, "from 0 to 1, got a number beyond 1e300"),
        ({"lexical_scale": 1e308}, ValueError, "from 0 to 1e\\+09, got a number beyond 1e300"),
        ({"beta": 1}, TypeError, "unknown search setting 'beta': expected alpha, candidates"),
    ],
)
def test_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SearchConfig().updated(settings)


def test_scale_of_priors() -> None:
    assert SearchConfig().prior_scale(20.0) == 20.0
    assert SearchConfig(mode="lexical").prior_scale(20.0) == 1.0
    assert SearchConfig(mode="lexical", lexical_scale=0.5).prior_scale(20.0) == 0.5
    assert SearchConfig(mode="hybrid", lexical_scale=0.5).prior_scale(20.0) == 1.0


@pytest.mark.parametrize("search", [{"mode": "hybrid"}, {}, "hybrid"])
def test_other_things_than_settings_are_refused(kb: KnowledgeBase, search: Any) -> None:
    with pytest.raises(TypeError, match=f"search must be a SearchConfig, got {type(search).__name__}"):
        kb.search("a question", search=search)
