"""Pixels become what transformers' processors make of them, on real files of every kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor, ConvNextImageProcessor, SiglipImageProcessor, ViTImageProcessor
from transformers.image_utils import load_image

from rag_infer.errors import ImageError, RagInferWarning
from rag_infer.export.image_processor import processing_of
from rag_infer.images import read_image
from rag_infer.images.processing import prepare
from rag_infer.parts import ImageProcessing

PROCESSORS = {
    "clip": CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}),
    "clip, larger than the image": CLIPImageProcessor(
        do_resize=False, crop_size={"height": 201, "width": 150}
    ),
    "clip, not square": CLIPImageProcessor(size={"shortest_edge": 61}, crop_size={"height": 40, "width": 61}),
    "siglip": SiglipImageProcessor(size={"height": 64, "width": 48}),
    "vit": ViTImageProcessor(size={"height": 56, "width": 56}),
    "vit, not normalised": ViTImageProcessor(
        size={"height": 30, "width": 30}, do_normalize=False, resample=0
    ),
    "convnext": ConvNextImageProcessor(size={"shortest_edge": 64}),
    "convnext, large": ConvNextImageProcessor(size={"shortest_edge": 384}),
}


def photograph(height: int, width: int) -> Image.Image:
    """Something smooth with edges and noise in it."""
    rows, columns = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    waves = (
        np.stack([np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + columns) / 5)], axis=-1) * 90 + 120
    )
    waves[height // 3 : height // 2, width // 4 : width // 2] = 255
    return Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8))


def with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(Image.fromarray(np.tile(np.arange(131, dtype=np.uint8), (97, 1))))
    return image


def deep(image: Image.Image) -> Image.Image:
    count = image.width * image.height
    return Image.fromarray((np.arange(count) % 700).astype(np.uint16).reshape(image.height, image.width))


def save_turned(image: Image.Image, path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


# Kinds of files: name, and how a photograph is written to it.
WRITERS: dict[str, tuple[str, Callable[[Image.Image, Path], None]]] = {
    "rgb": ("a.png", lambda image, path: image.save(path)),
    "jpeg": ("a.jpg", lambda image, path: image.save(path, quality=80)),
    "alpha": ("a.png", lambda image, path: with_alpha(image).save(path)),
    "palette": ("a.png", lambda image, path: image.convert("P").save(path)),
    "transparent palette": ("a.png", lambda image, path: image.convert("P").save(path, transparency=3)),
    "grey": ("a.png", lambda image, path: image.convert("L").save(path)),
    "grey with alpha": ("a.png", lambda image, path: image.convert("LA").save(path)),
    "one bit": ("a.png", lambda image, path: image.convert("1").save(path)),
    "cmyk": ("a.jpg", lambda image, path: image.convert("CMYK").save(path, quality=90)),
    **{f"turned {i}": ("a.jpg", partial(save_turned, orientation=i)) for i in range(1, 9)},
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)
def test_equal_to_transformers(tmp_path: Path, processor: Any, kind: str) -> None:
    name, write = WRITERS[kind]
    path = tmp_path / name
    write(photograph(97, 131), path)
    expected = processor(load_image(str(path)), return_tensors="np")["pixel_values"][0]
    found = prepare(read_image(path), processing_of(processor, "it"))
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-6


def test_16_bits_are_clipped_as_in_transformers_and_said_so(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    deep(photograph(97, 131)).save(path)
    with pytest.warns(RagInferWarning, match="more than 8 bits"):
        found = read_image(path)
    assert np.array_equal(found, np.array(load_image(str(path))))


def test_an_image_so_narrow_that_it_would_become_huge() -> None:
    processing = ImageProcessing(resize="shortest_edge", shortest_edge=224, height=224, width=224)
    with pytest.raises(ImageError, match="10,000 x 1 pixels are too narrow"):
        prepare(np.zeros((1, 10_000, 3), dtype=np.uint8), processing)
