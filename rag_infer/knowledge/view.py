"""What a search sees: one revision's vectors, which of them are alive, and the index over them."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rag_infer.knowledge.hnsw import Snapshot
from rag_infer.knowledge.masks import Masks
from rag_infer.knowledge.moments import Moments
from rag_infer.knowledge.queries import dead_rows
from rag_infer.knowledge.scan import Scan
from rag_infer.knowledge.schema import State, read_state
from rag_infer.knowledge.vectors import Segments, Vectors, best


@dataclass(frozen=True)
class View:
    """One revision.

    Attributes:
        state: what the record says.
        vectors: all rows that count.
        live: bool ``[rows]``, or None when all are alive.
        masks: of the conditions it was searched with.
    """

    state: State
    vectors: Vectors
    live: NDArray[np.bool_] | None
    masks: Masks = field(default_factory=Masks, compare=False)
    _counted: dict[str, Moments] = field(default_factory=dict, compare=False)

    def moments(self, count: Callable[[], dict[str, Moments]]) -> dict[str, Moments]:
        """What ``count`` returned once, or returns now."""
        if not self._counted:
            self._counted.update(count())
        return self._counted

    def alive(self) -> NDArray[np.bool_]:
        """Bool ``[rows]``: which rows are alive."""
        return np.ones(self.state.rows, dtype=np.bool_) if self.live is None else self.live


class Views:
    """The newest view anyone has needed; a search at another revision makes the next one out of it."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._lock = threading.Lock()
        self._newest: View | None = None

    def at(self, connection: sqlite3.Connection) -> View:
        """The view of a connection's snapshot.

        Raises:
            CorruptIndexError: a vector file is missing or too short.
        """
        state = read_state(connection)
        with self._lock:
            known = self._newest
            if known is not None and known.state == state:
                return known
            view = self._make(connection, state, known)
            if known is None or state.revision >= known.state.revision:
                self._newest = view
            return view

    def clear(self) -> None:
        """Let go of the files; searches that run keep theirs."""
        with self._lock:
            self._newest = None
            self._segments.clear()

    def _make(self, connection: sqlite3.Connection, state: State, known: View | None) -> View:
        vectors = self._segments.map(state.generation, state.rows)
        if state.passages == state.rows:
            return View(state, vectors, None)
        live = np.ones(state.rows, dtype=np.bool_)
        since = -1
        if known and known.state.generation == state.generation and known.state.revision <= state.revision:
            live[: known.state.rows] = known.alive()
            since = known.state.revision
        live[dead_rows(connection, since=since)] = False
        return View(state, vectors, live)


@dataclass(frozen=True)
class Derived:
    """What is derived from a view's vectors and makes searching them faster; each may be missing.

    Attributes:
        snapshot: an HNSW graph.
        scan: codes for the exact search.
    """

    snapshot: Snapshot | None = None
    scan: Scan | None = None


def nearest(
    view: View,
    derived: Derived,
    queries: NDArray[np.float32],
    k: int,
    *,
    mask: NDArray[np.bool_] | None = None,
    threads: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best live rows per query, by exact score; with a graph, among the rows that it proposes.

    Args:
        view: what is searched.
        derived: by what means.
        queries: float32 ``[queries, dim]``.
        k: how many.
        mask: bool ``[rows]``: the live rows that may be found; then the search is exact. None for all live rows.
        threads: at least 1.

    Returns:
        (scores float32 ``[queries, k]``, rows int64 ``[queries, k]``); missing ones are row -1.
    """
    if mask is not None:
        return _exact(view, derived, queries, k, mask=mask, threads=threads)
    snapshot = derived.snapshot
    proposed = None if snapshot is None else _propose(view, snapshot, queries, k, threads=threads)
    if snapshot is None or proposed is None:
        return _exact(view, derived, queries, k, mask=view.live, threads=threads)
    scores = view.vectors.scores(proposed, queries, threads=threads)
    covered = snapshot.manifest.rows
    if covered == view.state.rows:
        return best(scores, proposed, k)
    newer = _exact(view, derived, queries, k, first_row=covered, mask=view.live, threads=threads)
    return best(np.concatenate([scores, newer[0]], axis=1), np.concatenate([proposed, newer[1]], axis=1), k)


def _exact(
    view: View,
    derived: Derived,
    queries: NDArray[np.float32],
    k: int,
    *,
    first_row: int = 0,
    mask: NDArray[np.bool_] | None,
    threads: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if derived.scan is None:
        return view.vectors.topk(queries, k, first_row=first_row, mask=mask, threads=threads)
    scan = derived.scan
    return scan.topk(view.vectors, queries, k, first_row=first_row, mask=mask, threads=threads)


def _propose(
    view: View, snapshot: Snapshot, queries: NDArray[np.float32], k: int, *, threads: int
) -> NDArray[np.int64] | None:
    """Rows from the graph with dead ones as -1: at least k live ones per query, or all; None if it cannot."""
    elements = snapshot.manifest.elements
    if view.live is None:
        return snapshot.nearest(queries, min(k, elements), threads=threads)
    live = view.live
    wanted = min(k, int(np.count_nonzero(live[: snapshot.manifest.rows])))
    # Dead rows take up places: ask for more. Where very many are dead around a query the exact search is as fast.
    for count in (k, 2 * k + 16, 8 * k + 64):
        rows = snapshot.nearest(queries, min(count, elements), threads=threads)
        if rows is None:
            return None
        rows = np.where(live[rows], rows, -1)
        if ((rows >= 0).sum(axis=1) >= wanted).all():
            return rows
        if count >= elements:
            return None
    return None
