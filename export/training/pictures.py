"""Images as the models of a training read them: prepared as the exported bundle does it, and moved about."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import ViTImageProcessor

# Mean and standard deviation of values from 0 to 1, which makes them values from -1 to 1.
HALF = 0.5
# A pixel of an object differs from the background by more than this in some colour.
DIFFERENCE = 60


def save_processor(folder: Path, size: int) -> None:
    """Write the ``preprocessor_config.json`` that says what `pixel_values` does, for images of ``size`` squared."""
    size_of = {"height": size, "width": size}
    processor = ViTImageProcessor(size=size_of, image_mean=[HALF] * 3, image_std=[HALF] * 3)
    processor.save_pretrained(folder)


def pixel_values(pixels: Tensor) -> Tensor:
    """uint8 ``[images, height, width, 3]`` to float32 ``[images, 3, height, width]`` from -1 to 1.

    >>> pixel_values(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8)).flatten().tolist()
    [1.0, 1.0, 1.0]
    """
    return ((pixels.permute(0, 3, 1, 2).float() / 255 - HALF) / HALF).contiguous()


class MovingObjects:
    """Images of one object before a plain background, which is put anywhere where it is whole.

    Args:
        pixels: uint8 ``[images, height, width, 3]``; the first pixel is of the background.
    """

    def __init__(self, pixels: Tensor) -> None:
        self._pixels = pixels
        different = (pixels.short() - pixels[:, :1, :1].short()).abs().amax(3) > DIFFERENCE
        self._rows, self._columns = _extent(different.any(2)), _extent(different.any(1))

    def __call__(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """The images of indices int64 ``[n]``, each with its object at a random place; uint8."""
        height, width = self._pixels.shape[1:3]
        rows = _moved(self._rows[chosen], height, generator)
        columns = _moved(self._columns[chosen], width, generator)
        return self._pixels[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]


def _extent(there: Tensor) -> Tensor:
    """First and last true of each row, bool ``[n, size]`` to int64 ``[n, 2]``; the whole where there is none."""
    size = there.shape[1]
    first = there.int().argmax(1)
    last = size - 1 - there.flip(1).int().argmax(1)
    return torch.stack([first, last], dim=1)


def _moved(extent: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """For each place of the moved image the place it comes from, int64 ``[n, size]``."""
    length = extent[:, 1] - extent[:, 0] + 1
    start = (torch.rand(len(extent), generator=generator) * (size - length + 1)).long()
    places: Tensor = (torch.arange(size)[None] - (start - extent[:, 0])[:, None]) % size
    return places
