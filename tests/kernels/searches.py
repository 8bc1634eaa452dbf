"""Searches to be drawn: rows and queries of every kind that a scan of codes must bound."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
Random = np.random.Generator

KINDS = ("integers", "gaussian", "heavy tails", "norms far apart", "one component", "subnormal", "broken")


def vectors_of(kind: str, random: Random, rows: int, dim: int) -> Float32s:
    """Rows of which some are zeros."""
    values = random.standard_normal((rows, dim))
    if kind == "integers":
        values = random.integers(-2, 3, (rows, dim)).astype(np.float64)
    elif kind == "heavy tails":
        values = random.standard_cauchy((rows, dim)) ** 3
    elif kind == "norms far apart":
        values *= 10.0 ** random.integers(-44, 20, (rows, 1))
    elif kind == "one component":
        values = np.where(np.arange(dim) == 0, 1e6, values)
    elif kind == "subnormal":
        values *= 1e-42
    values[random.random(rows) < 0.05] = 0
    if kind == "broken":
        chosen = random.random((rows, dim)) < 0.02
        values[chosen] = random.choice([np.nan, np.inf, -np.inf, 3e38], int(chosen.sum()))
    largest = float(np.finfo(np.float32).max)
    return np.where(np.isinf(values), values, np.clip(values, -largest, largest)).astype(np.float32)


@st.composite
def searches(draw: st.DrawFn) -> tuple[Float32s, Float32s, int, NDArray[np.bool_] | None]:
    rows, dim, queries = draw(st.integers(0, 600)), draw(st.integers(0, 140)), draw(st.integers(0, 20))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors = vectors_of(draw(st.sampled_from(KINDS)), random, rows, dim)
    wanted = vectors_of(draw(st.sampled_from(KINDS)), random, queries, dim)
    k = draw(st.one_of(st.integers(1, 20), st.integers(1, rows + 5)))
    allowed = draw(st.sampled_from([None, 0.0, 0.02, 0.5, 1.0]))
    return vectors, wanted, k, None if allowed is None else random.random(rows) < allowed
