"""Images from files, bytes, arrays and Pillow's objects: to red, green and blue, or a typed error. Nothing is fetched.

What is done to a file is what transformers' ``load_image`` does before its processors: turned as its EXIF entry says,
then Pillow's ``convert("RGB")``, which drops an alpha channel, looks up palettes, repeats grey and clips 16 bits.
"""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import ImageError, RagInferWarning

if TYPE_CHECKING:
    from PIL import Image

# A path, the bytes of a file, Pillow's image, uint8 ``[height, width(, 1, 3 or 4)]``, or ``{"image": any of these}``.
ImageSource: TypeAlias = Union[
    str, os.PathLike[str], bytes, "Image.Image", NDArray[np.uint8], Mapping[str, Any]
]

# Formats that Pillow decodes by itself; others may call programs (EPS) or are no pictures (PDF).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

MAX_FILE_BYTES = 100_000_000
MAX_PIXELS = 50_000_000  # 150 MB as red, green and blue

# A path object writes "//" as "/"; one letter is a drive.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/|data:", re.IGNORECASE)

# What Pillow warns of is the whole process's, and changed for a moment: by one thread at a time.
_OPENING = threading.Lock()

# Pillow's modes of more than 8 bits, which its conversion clips.
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


def read_image(source: ImageSource, *, name: str = "") -> NDArray[np.uint8]:
    """The pixels of an image.

    Args:
        source: see `ImageSource`; a string is a path, never an address: nothing is fetched.
        name: what it is called in errors; default its path or its kind.

    Returns:
        uint8 ``[height, width, 3]``: red, green, blue.

    Raises:
        TypeError: something else than an image.
        ImageError: no such file, no image, of no supported format, cut short, animated, empty or too large.
    """
    if isinstance(source, Mapping):
        if set(source) != {"image"}:
            raise TypeError(
                f"an image given as a mapping has the one key 'image', got {sorted(map(str, source))}"
            )
        return read_image(source["image"], name=name)
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "the array")
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(bytes(source), name or "the image's bytes")
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return _from_bytes(read_image_file(path), name or str(path))
    return _from_pillow(source, name or "the image")


def refuse_address(path: str) -> None:
    """Refuse what is no path.

    Raises:
        ImageError: an address, such as of a web page.
    """
    if _ADDRESS.match(path):
        raise ImageError(f"{path[:200]} is an address: nothing is fetched, give the path of a file")


def read_image_file(path: Path) -> bytes:
    """The bytes of an image file, not yet decoded.

    Raises:
        ImageError: an address, no file, empty, or too large.
    """
    refuse_address(str(path))
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ImageError(f"{path} is no file")
        if not size:
            raise ImageError(f"{path} is empty: 0 bytes")
        if size > MAX_FILE_BYTES:
            raise ImageError(f"{path} has {size:,} bytes, over {MAX_FILE_BYTES:,}")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a path with a NUL, say
        raise ImageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _from_bytes(data: bytes, name: str) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ImageError(f"{name} is empty: 0 bytes")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"{name} has {len(data):,} bytes, over {MAX_FILE_BYTES:,}")
    try:
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if b"<svg" in data[:1000].lower():
            raise ImageError(f"{name} is a drawing (SVG): render it to PNG first") from None
        raise ImageError(f"{name} is no image of a supported format ({', '.join(FORMATS)})") from None
    except Exception as error:  # its decoders raise whatever damaged data lead them to
        raise ImageError(f"{name} cannot be read as an image: {error}") from error
    with image:
        return _from_pillow(image, name)


def _from_pillow(image: Any, name: str) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        raise TypeError(
            "an image is a path, bytes, a PIL image, a uint8 array or {'image': one of these}, "
            f"got {type(image).__name__}"
        )
    _check_size(image.width, image.height, name)
    try:
        # To count frames takes a walk through all of them. A JPEG with a preview or a depth map is one picture.
        several = getattr(image, "is_animated", False) and image.format != "MPO"
    except Exception as error:  # its decoders raise whatever damaged data lead them to
        raise ImageError(f"{name} is damaged or cut short: {error}") from error
    if several:
        raise ImageError(f"{name} has several frames: animated, or of several pages; save one of them alone")
    if image.mode in _DEEP:
        warnings.warn(
            f"{name} has more than 8 bits for a pixel (mode {image.mode}): values above 255 are clipped, as "
            "transformers does; save it with 8 bits",
            RagInferWarning,
            stacklevel=4,
        )
    try:
        turned = ImageOps.exif_transpose(image)
        return np.array(turned.convert("RGB"), dtype=np.uint8)
    except Exception as error:  # its decoders raise whatever damaged data lead them to
        raise ImageError(f"{name} is damaged or cut short: {error}") from error


def _from_array(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise TypeError(f"{name}: an image is uint8, got {array.dtype}")
    channels = 1 if array.ndim == 2 else array.shape[-1] if array.ndim == 3 else 0
    if channels not in (1, 3, 4):
        raise TypeError(f"{name}: an image is [height, width(, 1, 3 or 4)], got {list(array.shape)}")
    _check_size(array.shape[1], array.shape[0], name)
    if channels == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels: {width} x {height}")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name} has {width:,} x {height:,} pixels, over {MAX_PIXELS:,}")
