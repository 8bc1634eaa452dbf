"""What callers hand to a knowledge base: refused with the reason, never converted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from rag_infer._arrays import check_array
from rag_infer.knowledge.passage import Passage, check_text


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
        check_text("an id", id_)
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


def check_parts(passages: Sequence[Passage], vectors: NDArray[np.float32], *, image_dim: int) -> None:
    """Refuse vectors of texts or images that passages do not have.

    Args:
        passages: the passages.
        vectors: float32 ``[passages, dim]``, the last ``image_dim`` values of the image.
        image_dim: 0 where there are no images.

    Raises:
        ValueError: the message names the passage.
    """
    if not image_dim:
        return
    text_dim = vectors.shape[1] - image_dim
    for passage, vector in zip(passages, vectors, strict=True):
        for name, part, there in (
            ("text", vector[:text_dim], bool(passage.title or passage.text)),
            ("image", vector[text_dim:], passage.image is not None),
        ):
            if part.any() and not there:
                raise ValueError(
                    f"passage {passage.id!r} has no {name}, and its vector has a part for one: give zeros"
                )
        if not passage.image and not text_dim:
            raise ValueError(f"passage {passage.id!r} has no image, and texts are not searched here")
