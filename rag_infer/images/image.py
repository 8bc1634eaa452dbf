"""An image as a passage or a question has one: a file by its place or its bytes, known by its digest."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import ImageError
from rag_infer.images.reading import ImageSource, read_image, read_image_file


@dataclass(frozen=True)
class Image:
    """An image file. Two are equal where their bytes are.

    Make one with `of`, or with `reference`.

    Attributes:
        sha256: of the bytes, in hexadecimal digits.
        path: where they are; "" for those in memory, or inside a knowledge base that is not said.
        referenced: whether a knowledge base keeps only the path, and not the bytes.
        data: the bytes, where they are in memory.
    """

    sha256: str
    path: str = field(default="", compare=False)
    referenced: bool = field(default=False, compare=False)
    data: bytes = field(default=b"", compare=False, repr=False)

    @classmethod
    def of(cls, source: ImageSource | Image) -> Image:
        """The image of a path, bytes, a PIL image, a uint8 array, or ``{"image": one of these}``.

        What is no file yet becomes a PNG of its red, green and blue.

        Raises:
            TypeError: something else than an image.
            ImageError: no such file, one that is empty or too large, or an address: nothing is fetched.
        """
        if isinstance(source, Image):
            return source
        if isinstance(source, Mapping):
            if set(source) != {"image"}:
                raise TypeError(
                    f"an image given as a mapping has the one key 'image', got {sorted(map(str, source))}"
                )
            return cls.of(source["image"])
        if isinstance(source, str | os.PathLike):
            path = Path(source)
            return cls(_sha256(read_image_file(path)), path=str(path.absolute()))
        if isinstance(source, bytes | bytearray | memoryview):
            data = bytes(source)
            if not data:
                raise ImageError("the image's bytes are empty: 0 bytes")
            return cls(_sha256(data), data=data)
        data = _png(read_image(source))
        return cls(_sha256(data), data=data)

    @classmethod
    def reference(cls, path: str | os.PathLike[str]) -> Image:
        """The image of a file that stays where it is: a knowledge base keeps its path and its digest alone.

        Raises:
            ImageError: as `of`, or a path that is not UTF-8 and so cannot be kept.
        """
        found = cls.of(path)
        try:
            found.path.encode()
        except UnicodeEncodeError:
            raise ImageError(f"{found.path!a} cannot be referenced: it is not UTF-8") from None
        return cls(found.sha256, path=found.path, referenced=True)

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.path or f"the image {self.sha256[:12]}"

    def read_bytes(self) -> bytes:
        """The bytes of the file.

        Raises:
            ImageError: they cannot be read, or are others than they were.
        """
        if self.data:
            return self.data
        data = read_image_file(Path(self.path)) if self.path else b""
        if _sha256(data) != self.sha256:
            raise ImageError(
                f"{self.name} is not the file that it was: its sha256 differs from {self.sha256}"
            )
        return data

    def pixels(self) -> NDArray[np.uint8]:
        """uint8 ``[height, width, 3]``: red, green, blue.

        Raises:
            ImageError: as `read_bytes`, or no image, of no supported format, cut short, animated, empty or too large.
        """
        return read_image(self.read_bytes(), name=self.name)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image as Pillow

    stream = io.BytesIO()
    Pillow.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()
