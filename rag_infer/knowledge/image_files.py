"""The image files inside a knowledge base: named by their content, there before the record says so."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from rag_infer.errors import ImageError, KnowledgeBaseError
from rag_infer.images.image import Image
from rag_infer.knowledge.passage import Passage
from rag_infer.knowledge.vectors import sync_folder

IMAGES = "images"
# In that folder, the files that the last compaction found unused.
UNUSED = "unused"


def image_name(image: Image | None) -> str:
    """What the record says of an image: its digest, and the path where it is only referenced; "" for none."""
    if image is None:
        return ""
    return f"{image.sha256} {image.path if image.referenced else ''}"


def named_image(name: str) -> Image | None:
    """The image that the record says something of; one inside the knowledge base has no path yet."""
    if not name:
        return None
    sha256, _, path = name.partition(" ")
    return Image(sha256, path=path, referenced=bool(path))


class ImageFiles:
    """The folder of a knowledge base's image files.

    Args:
        folder: the knowledge base.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / IMAGES

    def path(self, sha256: str) -> Path:
        """Where the file of a digest is."""
        return self._folder / sha256[:2] / sha256

    def located(self, passage: Passage) -> Passage:
        """The passage, with the path of its image."""
        image = passage.image
        if image is None or image.path:
            return passage
        return replace(passage, image=replace(image, path=str(self.path(image.sha256))))

    def store(self, images: Iterable[Image]) -> None:
        """Put files on the disk that are not there, or not what they were.

        Raises:
            ImageError: one cannot be read, or is not the file that it was.
            KnowledgeBaseError: the disk is full, or cannot be written to.
        """
        for image in images:
            if self.has(image):
                continue
            path, data = self.path(image.sha256), image.read_bytes()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path, data)
                sync_folder(self._folder)
            except OSError as error:
                raise KnowledgeBaseError(
                    f"{path} cannot be written: {error.strerror or error}; nothing was committed"
                ) from error

    def has(self, image: Image) -> bool:
        """Whether its file is there and as it was, if it is one of the knowledge base's own."""
        if image.referenced:
            return True
        try:
            self._own(image).read_bytes()
        except ImageError:
            return False
        return True

    def _own(self, image: Image) -> Image:
        return Image(image.sha256, path=str(self.path(image.sha256)))

    def problems(self, connection: sqlite3.Connection) -> Iterator[str]:
        """What is wrong with the files of the record's passages."""
        for id_, image in self._images(connection):
            if not image.referenced:
                try:
                    self._own(image).read_bytes()
                except ImageError as error:
                    yield f"the image of passage {id_!r}: {error}; upsert it again"

    def lost_references(self, connection: sqlite3.Connection) -> list[str]:
        """Ids of the passages whose images lie elsewhere, and are not there, or not what they were."""
        lost = []
        for id_, image in self._images(connection):
            if image.referenced:
                try:
                    image.read_bytes()
                except ImageError:
                    lost.append(id_)
        return lost

    def remove_unused(self, connection: sqlite3.Connection) -> None:
        """Remove the files that no passage has had since the last time. The caller holds the writer lock.

        Whoever has just found a passage, or exports an earlier revision, still finds its image.
        """
        used = {name[:64] for (name,) in connection.execute("SELECT image FROM passages WHERE image != ''")}
        unused = {path.name: path for path in self._folder.glob("*/*") if path.name not in used}
        noted = self._folder / UNUSED
        before = set(noted.read_text(encoding="utf-8").split()) if noted.exists() else set()
        for name, path in unused.items():
            if name in before or path.name.startswith("."):
                path.unlink(missing_ok=True)
        left = sorted(set(unused) - before)
        if left:
            noted.write_text("\n".join(left), encoding="utf-8")
        else:
            noted.unlink(missing_ok=True)

    def _images(self, connection: sqlite3.Connection) -> Iterator[tuple[str, Image]]:
        query = "SELECT id, image FROM passages WHERE image != '' AND typeof(image) = 'text'"
        for id_, name in connection.execute(query):  # a passage with another is not as it was written
            image = named_image(name)
            assert image is not None
            yield id_, image

    def used(self, connection: sqlite3.Connection) -> Iterator[Path]:
        """The files of the record's passages, each once."""
        query = "SELECT DISTINCT substr(image, 1, 64) FROM passages WHERE image != '' AND length(image) = 65"
        for (sha256,) in connection.execute(query):
            yield self.path(sha256)


def _write(path: Path, data: bytes) -> None:
    """A file that is whole, or not there."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
