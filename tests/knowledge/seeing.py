"""A small encoder of texts and images in one space: words and colours that are alike have like vectors."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from rag_infer.images import Image
from tests.knowledge.encoders import HashingEncoder

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 40), "blue": (30, 40, 210), "grey": (128, 128, 128)}


class SeeingEncoder(HashingEncoder):
    """An image has the vector of its nearest colour's name, and something of its own.

    Attributes:
        seen: images encoded so far.
    """

    shared_space = True

    def __init__(self, dim: int = 16, *, similarity: str = "cosine") -> None:
        super().__init__(dim, similarity=similarity)
        self.image_dim = dim
        self.fingerprint = f"seeing-{dim}-{similarity}"
        self.seen = 0

    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        self.seen += len(images)
        vectors = []
        for image in images:
            mean = image.pixels().reshape(-1, 3).mean(axis=0)
            name = min(COLOURS, key=lambda n: float(np.abs(np.array(COLOURS[n]) - mean).sum()))
            own = np.random.default_rng(int(mean.sum() * 1000)).standard_normal(self.dim)
            vectors.append(self.encode([name])[0] + 0.5 * own + 1.0)  # the gap between the modalities
        return np.array(vectors, dtype=np.float32)


class ApartEncoder(SeeingEncoder):
    """The same, with images in a space of their own."""

    shared_space = False

    def __init__(self) -> None:
        super().__init__()
        self.image_dim = 12
        self.fingerprint = "apart"

    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        return super().encode_images(images)[:, :12]


def picture(colour: str, number: int = 0) -> bytes:
    """A PNG of about this colour."""
    pixels = np.full((8, 8, 3), COLOURS[colour], dtype=np.uint8)
    pixels[number % 8, number // 8 % 8] += 9
    stream = io.BytesIO()
    Pillow.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def picture_file(folder: Path, colour: str, number: int = 0) -> Path:
    path = folder / f"{colour}-{number}.png"
    path.write_bytes(picture(colour, number))
    return path
