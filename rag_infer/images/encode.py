"""Images to vectors, with an image encoder of a bundle."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rag_infer.bundle import Bundle
from rag_infer.errors import BundleError, ImageError
from rag_infer.images.image import Image
from rag_infer.images.processing import prepare
from rag_infer.images.reading import ImageSource, read_image
from rag_infer.parts import ImageEncoderPart, ImageProcessing
from rag_infer.session import Session

# Images in one run: enough to keep the cores busy; each takes as much memory as some hundred tokens.
IMAGES_PER_RUN = 16


class ImageEncoder:
    """An image encoder. Safe to share between threads.

    Attributes:
        dim: width of the vectors.
        similarity: "dot" or "cosine", how the bundle compares vectors.
        fingerprint: changes whenever the encoder would give other vectors.
    """

    def __init__(
        self, session: Session, part: ImageEncoderPart, *, similarity: str, fingerprint: str
    ) -> None:
        self._session = session
        self._part = part
        self.dim = part.dim
        self.similarity = similarity
        self.fingerprint = fingerprint

    @classmethod
    def from_bundle(cls, bundle: Bundle, *, device: str = "cpu", threads: int | None = None) -> ImageEncoder:
        """Load the image encoder of a bundle.

        Raises:
            BundleError: the bundle has none, or its files cannot be loaded.
            DeviceError: the device is not to be had, or int8 does not run on it.
        """
        part = bundle.manifest.image_encoder
        if part is None:
            raise BundleError(
                f"the bundle {bundle.folder} has no image encoder: export one with --image-encoder"
            )
        bundle.check_device(device)
        session = Session(bundle.file(part, part.graph), device=device, threads=threads)
        similarity = bundle.manifest.retrieval.similarity
        return cls(session, part, similarity=similarity, fingerprint=bundle.fingerprint(part))

    def encode(self, images: Sequence[ImageSource | Image]) -> NDArray[np.float32]:
        """Vectors of images, which are read some at a time.

        Args:
            images: any number of images (see `rag_infer.images.read_image`); a single one is a mistake and refused.

        Returns:
            float32 ``[images, dim]``, of length 1 where the encoder normalises.

        Raises:
            TypeError: ``images`` is one image, or holds something else than images.
            ImageError: one cannot be read; the message names it.
        """
        if isinstance(images, str | bytes | np.ndarray) or not isinstance(images, Sequence):
            raise TypeError(f"images must be a sequence of images, got {type(images).__name__}")
        vectors = np.empty((len(images), self.dim), dtype=np.float32)
        for start in range(0, len(images), IMAGES_PER_RUN):
            chunk = images[start : start + IMAGES_PER_RUN]
            pixels = np.stack([_prepared(image, self._part.processing) for image in chunk])
            pixels = pixels.astype(self._session.dtype("pixel_values"), copy=False)
            vectors[start : start + len(chunk)] = self._session.run({"pixel_values": pixels})[0]
        return vectors


def _prepared(image: ImageSource | Image, processing: ImageProcessing) -> NDArray[np.float32]:
    pixels = image.pixels() if isinstance(image, Image) else read_image(image)
    try:
        return prepare(pixels, processing)
    except ImageError as error:
        name = (
            image.name if isinstance(image, Image) else image if isinstance(image, str | os.PathLike) else ""
        )
        raise ImageError(f"{name or 'an image'}: {error}") from error
