"""What a search sees: one revision's vectors, which of them are alive, and the index over them."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag_infer import _kernels
from rag_infer.knowledge.hnsw import Snapshot
from rag_infer.knowledge.schema import State, read_state
from rag_infer.knowledge.store import dead_rows
from rag_infer.knowledge.vectors import Segments, Vectors, best


@dataclass(frozen=True)
class View:
    """One revision.

    Attributes:
        state: what the record says.
        vectors: all rows that count.
        live: bool ``[rows]``, or None when all are alive.
    """

    state: State
    vectors: Vectors
    live: NDArray[np.bool_] | None

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


def nearest(
    view: View,
    snapshot: Snapshot | None,
    queries: NDArray[np.float32],
    k: int,
    *,
    threads: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best live rows per query, by exact score; with a snapshot, among the rows its graph proposes.

    Returns:
        (scores float32 ``[queries, k]``, rows int64 ``[queries, k]``); missing ones are row -1.
    """
    if snapshot is None:
        return view.vectors.topk(queries, k, mask=view.live, threads=threads)
    proposed = _propose(view, snapshot, queries, k, threads=threads)
    if proposed is None:
        return view.vectors.topk(queries, k, mask=view.live, threads=threads)
    scores = np.full(proposed.shape, -np.inf, dtype=np.float32)
    for i, rows in enumerate(proposed):
        there = np.flatnonzero(rows >= 0)
        if there.size:
            scores[i, there] = _scores(view.vectors, rows[there], queries[i])
    newer = view.vectors.topk(queries, k, first_row=snapshot.manifest.rows, mask=view.live, threads=threads)
    return best(np.concatenate([scores, newer[0]], axis=1), np.concatenate([proposed, newer[1]], axis=1), k)


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


def _scores(vectors: Vectors, rows: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores of some rows by the kernel, so that they equal those of the exact search to the last bit."""
    gathered = vectors.gather(rows, len(query))
    found, order = _kernels.topk(gathered, query[None, :], len(rows))
    scores = np.full(len(rows), -np.inf, dtype=np.float32)
    scores[order[0][order[0] >= 0]] = found[0][order[0] >= 0]
    return scores
