"""The images in a folder, and in those below it, as passages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rag_infer.errors import CorpusError, ImageError
from rag_infer.images.image import Image
from rag_infer.knowledge.corpus_line import BadLineError
from rag_infer.knowledge.passage import Passage

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")

MAX_CAPTION_BYTES = 1_000_000


def image_paths(folder: Path) -> list[Path]:
    """The image files below a folder, by name, those in hidden ones left out.

    Raises:
        CorpusError: there are none.
    """
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise CorpusError(f"{folder} has no images ({', '.join(SUFFIXES)})")
    return found


def read_images(folder: Path, *, referenced: bool) -> Iterator[tuple[int, Callable[[], Passage]]]:
    """(number, what makes its passage) of each image below a folder.

    The passage's id is the path below the folder; its text is that of a file of the same name that ends in ``.txt``,
    where there is one.
    """
    for number, path in enumerate(image_paths(folder), 1):
        yield number, partial(_passage, folder, path, referenced=referenced)


def _passage(folder: Path, path: Path, *, referenced: bool) -> Passage:
    caption = path.with_suffix(".txt")
    try:
        text = ""
        if caption.is_file():
            with caption.open("rb") as stream:
                text = stream.read(MAX_CAPTION_BYTES + 1).decode("utf-8").strip()
        image = Image.reference(path) if referenced else Image.of(path)
        image.pixels()  # a bad one is told here, with its number
        return Passage(path.relative_to(folder).as_posix(), text, image=image)
    except ImageError as error:
        raise BadLineError("no image", str(error)) from None
    except UnicodeDecodeError as error:
        raise BadLineError("not UTF-8", f"{caption} is not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise BadLineError("no caption", f"{caption} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise BadLineError("not a passage", f"{str(path)!a}: {error}") from None
