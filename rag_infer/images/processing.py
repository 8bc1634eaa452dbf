"""From pixels to what an image encoder reads, with Pillow and NumPy.

As transformers' processors of CLIP, SigLIP, ViT and ConvNeXt (which ResNet uses) do it, in their order and precision.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import ImageError
from rag_infer.images.reading import MAX_PIXELS
from rag_infer.parts import ImageProcessing


def prepare(pixels: NDArray[np.uint8], processing: ImageProcessing) -> NDArray[np.float32]:
    """The input of an image encoder.

    Args:
        pixels: uint8 ``[height, width, 3]``, as `read_image` returns them.
        processing: what the encoder's bundle says.

    Returns:
        float32 ``[3, processing.height, processing.width]``.

    Raises:
        ImageError: so narrow that it would become too large.
    """
    resized = _resized(pixels, processing)
    cropped = _cropped(resized, processing.height, processing.width)
    # In float64 and then rounded, as transformers' `rescale`; normalised in float32.
    values = (cropped.astype(np.float64) * processing.scale).astype(np.float32)
    if processing.mean:
        values -= np.array(processing.mean, dtype=np.float32)
        values /= np.array(processing.std, dtype=np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def prepare_all(images: list[NDArray[np.uint8]], processing: ImageProcessing) -> NDArray[np.float32]:
    """float32 ``[images, 3, height, width]``."""
    out = np.empty((len(images), 3, processing.height, processing.width), dtype=np.float32)
    for i, pixels in enumerate(images):
        out[i] = prepare(pixels, processing)
    return out


def _resized(pixels: NDArray[np.uint8], processing: ImageProcessing) -> NDArray[np.uint8]:
    from PIL import Image

    height, width = pixels.shape[:2]
    if processing.resize == "exact":
        height, width = processing.height, processing.width
    elif processing.resize == "shortest_edge":
        shorter, longer = min(height, width), max(height, width)
        other = int(processing.shortest_edge * longer / shorter)
        height, width = (
            (processing.shortest_edge, other) if height <= width else (other, processing.shortest_edge)
        )
        if height * width > MAX_PIXELS:
            raise ImageError(
                f"{pixels.shape[1]:,} x {pixels.shape[0]:,} pixels are too narrow: with "
                f"{processing.shortest_edge} on its shorter side it has more than {MAX_PIXELS:,}"
            )
    else:
        return pixels
    resample = Image.Resampling[processing.resample.upper()]
    return np.asarray(Image.fromarray(pixels).resize((width, height), resample=resample))


def _cropped(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The middle; what is too small is surrounded by black. Odd remainders as transformers' ``center_crop``."""
    if pixels.shape[:2] == (height, width):
        return pixels
    full_height, full_width = max(height, pixels.shape[0]), max(width, pixels.shape[1])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    if (full_height, full_width) != pixels.shape[:2]:
        above, before = ceil((full_height - pixels.shape[0]) / 2), ceil((full_width - pixels.shape[1]) / 2)
        padded = np.zeros((full_height, full_width, 3), dtype=np.uint8)
        padded[above : above + pixels.shape[0], before : before + pixels.shape[1]] = pixels
        pixels, top, left = padded, top + above, left + before
    return pixels[top : top + height, left : left + width]
