"""One search: the rows that may be found, the nearest of them, and their passages, all of one revision."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError
from rag_infer.knowledge.checksums import vector_digest
from rag_infer.knowledge.conditions import Condition, matches, parse
from rag_infer.knowledge.fields import check_fields, fulfilling
from rag_infer.knowledge.hybrid import DenseSearch, TextSearch, search_texts
from rag_infer.knowledge.image_files import ImageFiles
from rag_infer.knowledge.index import Index
from rag_infer.knowledge.kinds import Found, ModalSearch
from rag_infer.knowledge.passage import Passage, ScoredPassage
from rag_infer.knowledge.queries import entries_by_row
from rag_infer.knowledge.revision import through_compactions
from rag_infer.knowledge.store import Record
from rag_infer.knowledge.view import View, Views, nearest


class SearchResult(list[ScoredPassage]):
    """Passages, best first.

    Attributes:
        revision: what was searched: all commits up to this one, and nothing of later ones.
    """

    def __init__(self, passages: Iterable[ScoredPassage], revision: int) -> None:
        super().__init__(passages)
        self.revision = revision


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


def search(
    record: Record,
    views: Views,
    index: Index,
    queries: NDArray[np.float32],
    k: int,
    where: Mapping[str, Any] | None,
    *,
    threads: int,
    texts: TextSearch | None = None,
    modal: ModalSearch | None = None,
    images: ImageFiles,
) -> tuple[list[SearchResult], int]:
    """(The k nearest passages to each query that have the metadata asked for, the revision that was searched).

    With ``texts``, of as many questions as queries, the search is what its config says. With ``modal`` the queries'
    vectors are its own, of texts and images.
    """
    condition = parse(where)
    with record.reading() as connection:
        view = through_compactions(connection, views.at)
        k = min(int(k), view.state.passages)
        if k == 0 or len(queries) == 0:
            return _nothing(queries, view)
        mask: NDArray[np.bool_] | None = None
        if condition is not None:
            check_fields(connection, condition)
            mask = view.masks.of(condition, partial(_mask, connection, condition, view))
            k = min(k, int(np.count_nonzero(mask)))
            if k == 0:
                return _nothing(queries, view)

        def near(vectors: NDArray[np.float32], count: int, among: NDArray[np.bool_] | None) -> Found:
            if among is not None:
                count = min(count, int(np.count_nonzero(among)))
            return nearest(view, index.of(view), vectors, count, mask=among, threads=threads)

        dense: DenseSearch = lambda vectors, count: near(vectors, count, mask)  # noqa: E731 - one of two
        if modal is not None:
            dense = modal.searching(connection, view, mask, near)
        if texts is None:
            scores, rows = dense(queries, k)
        else:
            scores, rows = search_texts(connection, view, texts, queries, k, mask=mask, dense=dense)
        found = _passages(connection, view, rows, condition)
        found = {row: images.located(passage) for row, passage in found.items()}
        revision = view.state.revision
    return [
        SearchResult(
            [
                ScoredPassage(**vars(found[int(row)]), score=float(score))
                for row, score in zip(r, s, strict=True)
                if row >= 0
            ],
            revision,
        )
        for r, s in zip(rows, scores, strict=True)
    ], revision


def _mask(connection: sqlite3.Connection, condition: Condition, view: View) -> NDArray[np.bool_]:
    return view.alive() & fulfilling(connection, condition, view.state.rows)


def _nothing(queries: NDArray[np.float32], view: View) -> tuple[list[SearchResult], int]:
    return [SearchResult([], view.state.revision) for _ in queries], view.state.revision


def _passages(
    connection: sqlite3.Connection, view: View, rows: NDArray[np.int64], condition: Condition | None
) -> dict[int, Passage]:
    """The passages of the rows that were found, each proven to be the one that was written there.

    Raises:
        CorruptIndexError: a text, its vector or its metadata is not as it was written.
    """
    wanted = np.unique(rows[rows >= 0])
    entries = entries_by_row(connection, wanted.tolist())
    vectors = view.vectors.gather(wanted, view.vectors.segments[0].shape[1])
    found = {}
    for row, vector in zip(wanted.tolist(), vectors, strict=True):
        entry = entries.get(row)
        if entry is None:
            raise CorruptIndexError(
                f"the record has no passage in row {row}, and does not say that it was deleted"
            )
        passage = entry.passage
        if vector_digest(vector) != entry.vector_digest or not matches(condition, passage.metadata):
            raise CorruptIndexError(
                f"the vector or a metadata field of passage {entry.id!r} in row {row} is not as it was written: "
                "'rag-infer index check KB --repair' may mend it"
            )
        found[row] = passage
    return found
