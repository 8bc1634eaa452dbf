"""Images of every source are read alike; what is no image is an error that names it."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rag_infer.errors import ImageError
from rag_infer.images import read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(kind: str = "PNG", pixels: np.ndarray = PIXELS) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def test_every_source_is_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "image with a ☃ in its name.png"
    path.write_bytes(encoded())
    for source in (
        path,
        str(path),
        encoded(),
        Image.open(path),
        PIXELS,
        {"image": path},
        {"image": encoded()},
    ):
        found = read_image(source)
        assert found.dtype == np.uint8
        assert np.array_equal(found, PIXELS)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_formats(kind: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(read_image(stream.getvalue()), PIXELS)


def test_contents_count_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded("PNG"))
    assert np.array_equal(read_image(path), PIXELS)


def test_arrays() -> None:
    grey = PIXELS[:, :, 0]
    for array in (grey, grey[:, :, None]):
        assert np.array_equal(read_image(array), np.stack([grey] * 3, axis=-1))
    with_alpha = np.concatenate([PIXELS, grey[:, :, None]], axis=-1)
    assert np.array_equal(read_image(with_alpha), PIXELS)
    wrong: Any
    for wrong in (PIXELS.astype(np.float32), PIXELS[None], PIXELS[:, :, :2], PIXELS[0, 0]):
        with pytest.raises(TypeError, match="an image is"):
            read_image(wrong)
    for empty in (PIXELS[:0], PIXELS[:, :0]):
        with pytest.raises(ImageError, match="no pixels"):
            read_image(empty)


@pytest.mark.parametrize("wrong", [None, 3, ["a.png"], {"path": "a.png"}, {}, object()])
def test_other_types(wrong: object) -> None:
    with pytest.raises(TypeError, match="an image"):
        read_image(wrong)  # type: ignore[arg-type]


def bomb() -> bytes:
    """A PNG of a few hundred bytes that says it has 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A PNG with a comment of 100 MB in 100 kB."""
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    data = b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    png = stream.getvalue()
    return png[:33] + chunk + png[33:]


def animation(kind: str) -> bytes:
    frames = [Image.fromarray(np.full((8, 8, 3), 80 * i, dtype=np.uint8)) for i in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    return stream.getvalue()


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.png": (bytes, "is empty: 0 bytes"),
    "words.png": (lambda: b"these are words", "is no image of a supported format"),
    "program.jpg": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "no image of a supported format",
    ),
    "drawing.svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', r"a drawing \(SVG\)"),
    "declared.svg": (lambda: b'\n<?xml encoding="UTF-8"?><svg/>', r"a drawing \(SVG\)"),
    "bomb.png": (bomb, "60,000 x 60,000 pixels, over 50,000,000|60000 x 60000|exceeds limit"),
    "text.png": (text_bomb, "cannot be read|damaged"),
    "moving.gif": (lambda: animation("GIF"), "has several frames"),
    "moving.webp": (lambda: animation("WEBP"), "has several frames"),
    "moving.png": (lambda: animation("PNG"), "has several frames"),
    "pages.tiff": (lambda: animation("TIFF"), "has several frames"),
}


def test_a_jpeg_with_a_preview_is_one_picture() -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), 80 * i, dtype=np.uint8)) for i in range(2)]
    stream = io.BytesIO()
    frames[0].save(stream, "MPO", save_all=True, append_images=frames[1:])
    data = stream.getvalue()
    assert data.startswith(b"\xff\xd8"), "a JPEG"
    assert read_image(data).max() < 10, "its first picture"


def test_frames_are_not_counted() -> None:
    """That walks through all of them: a small file of very many took minutes."""
    frame = Image.fromarray(np.zeros((1, 1), dtype=np.uint8))
    stream = io.BytesIO()
    frame.save(stream, "TIFF", save_all=True, append_images=[frame] * 3000)
    started = time.process_time()
    with pytest.raises(ImageError, match="has several frames"):
        read_image(stream.getvalue())
    seconds = time.process_time() - started
    with Image.open(stream) as opened:
        started = time.process_time()
        assert opened.n_frames == 3001
        assert seconds < (time.process_time() - started) / 3


def test_threads_that_read_leave_no_filter_of_warnings_behind() -> None:
    before, interval = list(warnings.filters), sys.getswitchinterval()
    data = encoded("PNG")
    sys.setswitchinterval(1e-6)  # so that they meet
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read_image, [data] * 400))
    finally:
        sys.setswitchinterval(interval)
    assert list(warnings.filters) == before


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(tmp_path: Path, name: str) -> None:
    make, message = BAD[name]
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(ImageError, match=message) as raised:
        read_image(path)
    assert name in str(raised.value)
    with pytest.raises(ImageError, match=message):
        read_image(make())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_cut_short_at_any_byte(kind: str) -> None:
    whole = encoded(kind)
    for length in range(0, len(whole) - 20, max(1, len(whole) // 60)):
        with pytest.raises(ImageError):
            read_image(whole[:length])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_anywhere_it_is_an_image_or_an_error(kind: str) -> None:
    draw, whole = random.Random(kind), encoded(kind)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        with contextlib.suppress(ImageError):
            assert read_image(bytes(data)).ndim == 3


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("connected"))
    for address in (
        "http://127.0.0.1/a.png",
        "https://example.org/a.png",
        "file:///etc/passwd",
        "ftp://h/a.png",
    ):
        with pytest.raises(ImageError, match="is an address: nothing is fetched"):
            read_image(address)
    with pytest.raises(ImageError, match="is an address"):
        read_image("data:image/png;base64,AAAA")


def test_paths(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.png cannot be read: No such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="is no file"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="cannot be read"):
        read_image("a\0b.png")
    with pytest.raises(ImageError, match=r"given\.png"):
        read_image(b"words", name="given.png")
