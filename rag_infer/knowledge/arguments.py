"""What callers hand to a knowledge base: refused with the reason, never converted."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rag_infer._arrays import check_array
from rag_infer.knowledge.passage import Passage


def check_passages(passages: Iterable[Passage]) -> list[Passage]:
    """The passages, read once.

    Raises:
        TypeError: something else is among them.
    """
    found = list(passages)
    for passage in found:
        if not isinstance(passage, Passage):
            raise TypeError(f"passages must be Passage objects, got {type(passage).__name__}")
    return found


def check_ids(ids: Iterable[str]) -> list[str]:
    """The ids, read once.

    Raises:
        TypeError: one string instead of several, or something else than strings.
    """
    if isinstance(ids, str):
        raise TypeError(f"ids must be a sequence of ids, not the string {ids!r}")
    found = list(ids)
    for id_ in found:
        if not isinstance(id_, str):
            raise TypeError(f"an id must be a string, got {id_!r}")
    return found


def check_vectors(name: str, vectors: NDArray[np.float32], *, rows: int | None, dim: int) -> None:
    """Refuse anything but finite float32 ``[rows, dim]``; None allows any number of rows.

    Raises:
        TypeError, ValueError: another dtype or shape, NaN or infinity.
    """
    check_array(name, vectors, np.float32, (rows, dim))
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise ValueError(f"{name}: row {bad[0]} holds NaN or infinity ({bad.size} such rows)")
