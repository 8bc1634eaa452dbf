"""One search: the rows that may be found, the nearest of them, and their passages, all of one revision."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError
from rag_infer.knowledge.index import Index
from rag_infer.knowledge.passage import ScoredPassage, field_digest
from rag_infer.knowledge.schema import read_state
from rag_infer.knowledge.store import Record, passages_by_row, rows_with_field
from rag_infer.knowledge.view import View, Views, nearest


def check_k(k: int) -> None:
    """Refuse a k that is no number of passages.

    Raises:
        TypeError: not an integer.
        ValueError: below 1.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"k must be an integer, got {k!r}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")


def normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of length 1; zero vectors stay zero.

    >>> normalised(np.array([[3, 4], [0, 0]], dtype=np.float32)).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    # In float64: the squares of large float32 values overflow.
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def search(
    record: Record,
    views: Views,
    index: Index,
    queries: NDArray[np.float32],
    k: int,
    where: Mapping[str, Any] | None,
    *,
    threads: int,
) -> tuple[list[list[ScoredPassage]], int]:
    """(The k nearest passages to each query that have the metadata asked for, the revision that was searched)."""
    digests = [field_digest(name, value) for name, value in _conditions(where).items()]
    with record.reading() as connection:
        view = _current(views, connection)
        k = min(int(k), view.state.passages)
        if k == 0 or len(queries) == 0:
            return [[] for _ in queries], view.state.revision
        if digests:
            mask = _allowed(connection, view, digests)
            k = min(k, int(np.count_nonzero(mask)))
            if k == 0:
                return [[] for _ in queries], view.state.revision
            scores, rows = view.vectors.topk(queries, k, mask=mask, threads=threads)
        else:
            scores, rows = nearest(view, index.of(view), queries, k, threads=threads)
        wanted = [int(row) for row in np.unique(rows) if row >= 0]
        passages = passages_by_row(connection, wanted)
    return [
        [
            ScoredPassage(**vars(passages[int(row)]), score=float(score))
            for row, score in zip(found, values, strict=True)
            if row >= 0
        ]
        for found, values in zip(rows, scores, strict=True)
    ], view.state.revision


def _conditions(where: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if where is None:
        return {}
    if not isinstance(where, Mapping):
        raise TypeError(f"where must be a mapping of metadata fields, got {type(where).__name__}")
    return where


def _current(views: Views, connection: sqlite3.Connection) -> View:
    """The view of a connection's snapshot; of a newer one where its files have just been compacted away."""
    try:
        return views.at(connection)
    except CorruptIndexError:
        generation = read_state(connection).generation
        connection.execute("ROLLBACK")
        connection.execute("BEGIN")
        if read_state(connection).generation == generation:
            raise
        return views.at(connection)


def _allowed(connection: sqlite3.Connection, view: View, digests: list[bytes]) -> NDArray[np.bool_]:
    """Bool ``[rows]``: the live rows with all the metadata fields."""
    allowed = view.alive()
    for digest in digests:
        having = np.zeros(view.state.rows, dtype=np.bool_)
        having[rows_with_field(connection, digest)] = True
        allowed = allowed & having
    return allowed
