"""One entry of a corpus file, as a passage, or why it cannot be one."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_infer.errors import ImageError
from rag_infer.images.image import Image
from rag_infer.images.reading import refuse_address
from rag_infer.knowledge.document import MAX_DOCUMENT_BYTES, Document
from rag_infer.knowledge.passage import MAX_PASSAGE_BYTES, Passage

ID_FIELDS = ("_id", "id")
TEXT_FIELDS = ("text", "contents")


@dataclass(frozen=True, kw_only=True)
class EntryKind:
    """What the entries of a corpus are.

    Attributes:
        name: "passage" or "document".
        make: from id, text, title and metadata.
        max_bytes: longest text.
        max_line_bytes: longest line of a file.
    """

    name: str
    make: Callable[..., Passage | Document]
    max_bytes: int
    max_line_bytes: int

    @property
    def too_long(self) -> str:
        """The reason why a longer one is refused."""
        return f"over {self.max_bytes // 1_000_000} MB"


# A text of a megabyte can take six in JSON, where each byte is written as \u0000.
PASSAGES = EntryKind(name="passage", make=Passage, max_bytes=MAX_PASSAGE_BYTES, max_line_bytes=8_000_000)
# Not six times as much here: a line is held in memory. Four is enough for all but control characters.
DOCUMENTS = EntryKind(
    name="document", make=Document, max_bytes=MAX_DOCUMENT_BYTES, max_line_bytes=4 * MAX_DOCUMENT_BYTES
)


@dataclass(frozen=True, kw_only=True)
class ImageRule:
    """How the field ``image`` of an entry is read.

    Attributes:
        folder: what a path in it is relative to.
        referenced: whether the file stays where it is.
    """

    folder: Path
    referenced: bool = False

    def image(self, left: dict[str, Any]) -> Image | None:
        """Take the field out of the entry; None where there is none, or it is null or empty (a table's cell).

        Raises:
            BadLineError: it is no path, or its file cannot be read.
        """
        value = left.pop("image", None)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise BadLineError("wrong type", f"the image must be a path, found {_kind(value)}")
        try:
            refuse_address(value)
            path = self.folder / value
            image = Image.reference(path) if self.referenced else Image.of(path)
            image.pixels()  # a bad one is told here, with its line
            return image
        except ImageError as error:
            raise BadLineError("no image", str(error)) from None


class BadLineError(Exception):
    """An entry that cannot become a passage.

    Attributes:
        reason: one of few, to count by: "not JSON", "no text", ...
        detail: what is wrong with this one.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def from_json(line: bytes, kind: EntryKind = PASSAGES, images: ImageRule | None = None) -> Passage | Document:
    """What a JSON line says: ``_id`` or ``id``, ``title``, ``text`` or ``contents``, ``image``; the rest is metadata.

    Raises:
        BadLineError: it is not UTF-8, not JSON, not an object, or not a passage.
    """
    text = decode(line)
    try:
        entry = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadLineError("not JSON", f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise BadLineError("not JSON", "nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise BadLineError("not JSON", f"not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise BadLineError("not an object", f"a JSON object is expected, found {_kind(entry)}")
    return from_entry(entry, kind, images)


def from_entry(
    entry: Mapping[str, Any], kind: EntryKind = PASSAGES, images: ImageRule | None = None
) -> Passage | Document:
    """The passage or document of an entry's fields; an object in the field ``metadata`` counts as fields of its own.

    Args:
        entry: the fields.
        kind: what is made of them.
        images: where the files named in the field ``image`` are; None to take the field for metadata.

    Raises:
        BadLineError: it lacks id or text, or a field is not what it should be.
    """
    left = dict(entry)
    id_ = _take_id(left)
    text = _take(left, TEXT_FIELDS)
    image = None if images is None else images.image(left)
    if image is not None and kind is DOCUMENTS:
        raise BadLineError(
            "image of a document",
            f"document {id_!r} has an image: only passages that are not cut can have one",
        )
    if image is not None and text is None:
        text = ""
    if text is None or (isinstance(text, str) and not text.strip() and image is None):
        raise BadLineError("no text", f"no text in {kind.name} {id_!r}: a field text or contents is expected")
    title = left.pop("title", None)
    title = "" if title is None else title
    for name, value in (("id", id_), ("text", text), ("title", title)):
        if not isinstance(value, str):
            raise BadLineError("wrong type", f"the {name} must be a string, found {_kind(value)}")
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > kind.max_bytes:
        raise BadLineError(
            kind.too_long,
            f"{kind.name} {id_!r} has a text of {size:,} bytes, over {kind.max_bytes:,}: split it",
        )
    if isinstance(left.get("metadata"), dict):
        left |= left.pop("metadata")
    metadata = {name: _plain(value) for name, value in left.items()}
    try:
        return kind.make(id_, text, title, metadata, **({} if image is None else {"image": image}))
    except (TypeError, ValueError) as error:
        raise BadLineError(f"not a {kind.name}", str(error)) from None


def decode(line: bytes) -> str:
    """The text of UTF-8 bytes.

    Raises:
        BadLineError: they are not UTF-8.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadLineError(
            "not UTF-8", f"not UTF-8: byte 0x{line[error.start]:02x} at {error.start}"
        ) from None


def _take_id(left: dict[str, Any]) -> Any:
    id_ = _take(left, ID_FIELDS)
    if isinstance(id_, int) and not isinstance(id_, bool):
        id_ = str(id_)
    if id_ is None or id_ == "":
        raise BadLineError("no id", "no id: a field _id or id is expected")
    return id_


def _take(entry: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The first field of these that is there; it is no metadata."""
    return next((entry.pop(name) for name in names if entry.get(name) is not None), None)


def _plain(value: Any) -> Any:
    # Parquet has times, JSON has none.
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
