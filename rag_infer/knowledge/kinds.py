"""Which rows of a revision have texts, images or both, and what is known of all vectors of each."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rag_infer.knowledge.hybrid import DenseSearch
from rag_infer.knowledge.modalities import Kinds, Nearest, Space, search_modalities
from rag_infer.knowledge.moments import IMAGE, ROWS_AT_ONCE, TEXT, Moments, read_moments
from rag_infer.knowledge.queries import dead_count
from rag_infer.knowledge.query_vectors import QueryVectors
from rag_infer.knowledge.schema import Settings
from rag_infer.knowledge.search_config import SearchConfig
from rag_infer.knowledge.view import View

# Kept moments of a share of the vectors that there are now serve; of fewer they are counted anew.
STILL_GOOD = 0.5

Found = tuple[NDArray[np.float32], NDArray[np.int64]]

KINDS: tuple[tuple[str, ...], ...] = ((TEXT,), (IMAGE,), (TEXT, IMAGE))


@dataclass(frozen=True, kw_only=True)
class ModalSearch:
    """A search of texts and images by vectors.

    Attributes:
        queries: the questions' vectors.
        config: how they are fused.
        settings: of the knowledge base.
    """

    queries: QueryVectors
    config: SearchConfig
    settings: Settings

    def searching(
        self, connection: sqlite3.Connection, view: View, mask: NDArray[np.bool_] | None, nearest: Nearest
    ) -> DenseSearch:
        """The search at a revision, for so many rows per question; vectors that it is given do not count."""
        kinds = kinds_of(connection, view, self.settings, mask)
        space = space_of(connection, view, self.settings)
        # Of a hybrid search alpha is the share of the vectors: of texts and images alike.
        config = replace(self.config, alpha=0.5) if self.config.mode == "hybrid" else self.config
        search = partial(search_modalities, self.queries, config, space=space, kinds=kinds, nearest=nearest)
        return lambda _, count: search(count)


def kinds_of(
    connection: sqlite3.Connection, view: View, settings: Settings, mask: NDArray[np.bool_] | None
) -> Kinds:
    """The rows that may be found, by what they have.

    Args:
        connection, view: of the same revision.
        settings: of the knowledge base.
        mask: bool ``[rows]``: only these rows; None for all that are alive.
    """
    masks: dict[tuple[str, ...], NDArray[np.bool_]] = {}
    all_kinds = view.masks.of("modalities", partial(_rows_by_kind, connection, view, settings))
    for kind, rows in zip(KINDS, all_kinds, strict=True):
        there = rows if mask is None else rows & mask
        if there.any():
            masks[kind] = there
    return Kinds(masks, mask)


def space_of(connection: sqlite3.Connection, view: View, settings: Settings) -> Space:
    """What the stored vectors consist of. Moments are counted where they are asked for and the record has none."""
    text_dim = settings.dim - settings.image_dim

    def moments() -> dict[str, Moments]:
        known = read_moments(connection)
        counts = _counts(connection, view, settings)
        # Few are as good as many to know a mean by, but none are not; nor are those that are gone.
        if known and all(_left(connection, known[m]) >= STILL_GOOD * counts[m] for m in counts):
            return known
        return view.moments(lambda: count_moments(connection, view, settings))

    return Space(text_dim, settings.image_dim, settings.shared_space, moments)


def _left(connection: sqlite3.Connection, moments: Moments) -> int:
    """How many of the vectors that were counted are still there, at least."""
    return moments.count - dead_count(connection, since=moments.revision)


def _counts(connection: sqlite3.Connection, view: View, settings: Settings) -> dict[str, int]:
    masks = kinds_of(connection, view, settings, None).masks
    return {
        m: sum(int(np.count_nonzero(rows)) for kind, rows in masks.items() if m in kind)
        for m in (TEXT, IMAGE)
    }


def count_moments(connection: sqlite3.Connection, view: View, settings: Settings) -> dict[str, Moments]:
    """The mean and the spread of all live vectors of texts, and of images."""
    text_dim = settings.dim - settings.image_dim
    places = {TEXT: slice(0, text_dim), IMAGE: slice(text_dim, None)}
    masks = kinds_of(connection, view, settings, None).masks
    found = {}
    for modality, place in places.items():
        having = [mask for kind, mask in masks.items() if modality in kind]
        rows = np.flatnonzero(np.logical_or.reduce(having)) if having else np.empty(0, dtype=np.int64)
        dim = settings.image_dim if modality == IMAGE else text_dim
        vectors = _vectors(view, rows, settings.dim, place)
        found[modality] = Moments.of(vectors, dim, revision=view.state.revision)
    return found


def _vectors(view: View, rows: NDArray[np.int64], dim: int, place: slice) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield view.vectors.gather(rows[start : start + ROWS_AT_ONCE], dim)[:, place]


def _rows_by_kind(connection: sqlite3.Connection, view: View, settings: Settings) -> NDArray[np.bool_]:
    """Bool ``[kinds, rows]``: the live rows whose vectors have just these parts.

    Where no texts are encoded, no vector has that part.
    """
    with_image = np.zeros(view.state.rows, dtype=np.bool_)
    alone = np.zeros(view.state.rows, dtype=np.bool_)
    query = "SELECT row, title = '' AND text = '' FROM passages WHERE image != ''"
    found = np.array(connection.execute(query).fetchall(), dtype=np.int64).reshape(-1, 2)
    with_image[found[:, 0]] = True
    alone[found[:, 0]] = found[:, 1].astype(bool)
    if settings.dim == settings.image_dim:
        alone = with_image
    return np.stack([~with_image, alone, with_image & ~alone]) & view.alive()
