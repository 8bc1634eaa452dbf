"""From images to the features that a generator's contexts begin with.

The vision graph runs once for each distinct image of a call, however many contexts hold it: a question's image is in
the contexts of all its passages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer._arrays import check_array
from rag_infer.images.processing import prepare
from rag_infer.parts import GeneratorVision
from rag_infer.session import Cancellation, Session

Float = NDArray[np.float32]
# The images of one context, uint8 ``[height, width, 3]``, in the order of `GeneratorVision.sources`; None where there
# is none.
ContextImages = Sequence[NDArray[np.uint8] | None]
# Per question, per passage.
Images = Sequence[Sequence[ContextImages]]

# Images in one run of the graph, as in `rag_infer.images.encode`.
IMAGES_PER_RUN = 16
# In `Seen.of_row`.
NO_IMAGE = -1


@dataclass(frozen=True)
class Seen:
    """What the contexts of a batch see.

    Attributes:
        features: ``[images, places, width]``, of each distinct image.
        of_row: int64 ``[rows, sources]``, the image of each source in each context, `NO_IMAGE` where there is none.
    """

    features: Float
    of_row: NDArray[np.int64]

    def of_rows(self, rows: slice) -> Seen:
        """What some of the contexts see."""
        return Seen(self.features, self.of_row[rows])

    def by_context(self) -> tuple[Float, Float]:
        """Features ``[rows, sources * places, width]``, and their bias, float32 ``[rows, sources * places]``.

        The bias is minus infinity at the places of an image that a context does not have, 0 elsewhere.
        """
        rows, width = len(self.of_row), self.features.shape[2]
        features = self.features[np.maximum(self.of_row, 0)].reshape(rows, -1, width)
        absent = np.where(self.of_row == NO_IMAGE, np.float32(-np.inf), np.float32(0))
        return features, np.repeat(absent, self.features.shape[1], axis=1)


class Vision:
    """Runs the vision graph of a generator. Safe to share between threads.

    Args:
        session: of the graph.
        part: the generator's entry in the manifest.
    """

    def __init__(self, session: Session, part: GeneratorVision) -> None:
        self._session = session
        self.part = part

    def of_images(
        self, images: Images, counts: Sequence[int], *, cancellation: Cancellation | None = None
    ) -> Seen:
        """What contexts see of images as `rag_infer.images.read_image` gives them.

        Args:
            images: see `ContextImages`.
            counts: how many passages each question has.
            cancellation: stops the run.

        Raises:
            TypeError: an image that is no uint8 array.
            ValueError: images of another number of questions, passages or sources, an image of another shape, or a
                context without anything to read.
            ImageError: an image that cannot be brought to the graph's size.
        """
        given = [len(question) for question in images]
        if given != list(counts):
            raise ValueError(
                f"images are given for {given} passages of each question, expected {list(counts)}"
            )
        rows = [row for question in images for row in question]
        for i, row in enumerate(rows):
            self._check(i, row)
        processing = self.part.processing
        distinct, of_row = _distinct(rows)
        return Seen(self._features(distinct, lambda image: prepare(image, processing), cancellation), of_row)

    def of_pixel_values(self, pixel_values: Float, rows: int) -> Seen:
        """What contexts see of prepared images, float32 ``[rows, sources, 3, height, width]``.

        Raises:
            TypeError: an array of another dtype.
            ValueError: of another shape, or with a value that is no number.
        """
        processing, sources = self.part.processing, len(self.part.sources)
        wanted = (rows, sources, 3, processing.height, processing.width)
        check_array("pixel_values", pixel_values, np.float32, wanted)
        if not np.isfinite(pixel_values).all():
            raise ValueError("pixel_values must be numbers, got NaN or infinity")
        distinct, of_row = _distinct(list(pixel_values))
        return Seen(self._features(distinct, lambda image: image, None), of_row)

    def _check(self, number: int, row: ContextImages) -> None:
        sources = self.part.sources
        if len(row) != len(sources):
            raise ValueError(
                f"context {number} has {len(row)} images, expected {len(sources)}: of {', '.join(sources)}"
            )
        for source, image in zip(sources, row, strict=True):
            if image is None:
                continue
            name = f"the {source}'s image of context {number}"
            check_array(name, image, np.uint8, (None, None, 3))
            if 0 in image.shape:
                raise ValueError(f"{name} has no pixels: {list(image.shape)}")
        if not self.part.reads_text and all(image is None for image in row):
            raise ValueError(f"context {number} has no image, and this generator reads nothing else")

    def _features(
        self,
        images: Sequence[NDArray[Any]],
        prepared: Callable[[NDArray[Any]], Float],
        cancellation: Cancellation | None,
    ) -> Float:
        """Of each image; of one that nobody looks at where there is none, for its shape."""
        processing, dtype = self.part.processing, self._session.dtype("pixel_values")
        found = []
        for start in range(0, max(1, len(images)), IMAGES_PER_RUN):
            chunk = [prepared(image) for image in images[start : start + IMAGES_PER_RUN]]
            pixels = np.stack(chunk or [np.zeros((3, processing.height, processing.width), np.float32)])
            inputs = {"pixel_values": pixels.astype(dtype, copy=False)}
            found.append(self._session.run(inputs, ["features"], cancellation=cancellation)[0])
        return np.concatenate(found)


def see_images(
    vision: Vision | None,
    images: Images | None,
    counts: Sequence[int],
    *,
    cancellation: Cancellation | None = None,
) -> Seen | None:
    """As `Vision.of_images`; None for a generator of text alone.

    Raises:
        ValueError: images are missing, or given to a generator of text alone.
    """
    _check_given(vision, "images", images)
    if vision is None or images is None:
        return None
    return vision.of_images(images, counts, cancellation=cancellation)


def see_pixels(vision: Vision | None, pixel_values: Float | None, rows: int) -> Seen | None:
    """As `Vision.of_pixel_values`; None for a generator of text alone; errors as `see_images`."""
    _check_given(vision, "pixel_values", pixel_values)
    if vision is None or pixel_values is None:
        return None
    return vision.of_pixel_values(pixel_values, rows)


def _check_given(vision: Vision | None, name: str, given: object) -> None:
    if vision is None and given is not None:
        raise ValueError(f"this generator reads text alone: {name} cannot be given to it")
    if vision is not None and given is None:
        sources = " and ".join(f"the {source}'s" for source in vision.part.sources)
        raise ValueError(f"this generator sees: give {name}, {sources} image for each context")


def _distinct(rows: Sequence[Sequence[Any]]) -> tuple[list[NDArray[Any]], NDArray[np.int64]]:
    """Images that differ, and which of them each source of each row is."""
    numbers: dict[tuple[tuple[int, ...], bytes], int] = {}
    images: list[NDArray[Any]] = []
    of_row = np.full((len(rows), len(rows[0])), NO_IMAGE, dtype=np.int64)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            if image is None:
                continue
            key = (image.shape, hashlib.sha256(np.ascontiguousarray(image).data).digest())
            if key not in numbers:
                numbers[key] = len(images)
                images.append(image)
            of_row[i, j] = numbers[key]
    return images, of_row
