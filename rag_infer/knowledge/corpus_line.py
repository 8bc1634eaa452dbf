"""One entry of a corpus file, as a passage, or why it cannot be one."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any

from rag_infer.knowledge.passage import MAX_PASSAGE_BYTES, Passage

ID_FIELDS = ("_id", "id")
TEXT_FIELDS = ("text", "contents")


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


def from_json(line: bytes) -> Passage:
    """The passage of a JSON line: ``_id`` or ``id``, ``title``, ``text`` or ``contents``; the rest is metadata.

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
    return from_entry(entry)


def from_entry(entry: Mapping[str, Any]) -> Passage:
    """The passage of an entry's fields; an object in the field ``metadata`` counts as fields of its own.

    Raises:
        BadLineError: it lacks id or text, or a field is not what it should be.
    """
    left = dict(entry)
    id_ = _take(left, ID_FIELDS)
    if isinstance(id_, int) and not isinstance(id_, bool):
        id_ = str(id_)
    if id_ is None or id_ == "":
        raise BadLineError("no id", "no id: a field _id or id is expected")
    text = _take(left, TEXT_FIELDS)
    if text is None or (isinstance(text, str) and not text.strip()):
        raise BadLineError("no text", f"no text in passage {id_!r}: a field text or contents is expected")
    title = left.pop("title", None)
    for name, value in (("id", id_), ("text", text), ("title", title or "")):
        if not isinstance(value, str):
            raise BadLineError("wrong type", f"the {name} must be a string, found {_kind(value)}")
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_PASSAGE_BYTES:
        raise BadLineError(
            "over 1 MB", f"passage {id_!r} has a text of {size:,} bytes, over {MAX_PASSAGE_BYTES:,}: split it"
        )
    if isinstance(left.get("metadata"), dict):
        left |= left.pop("metadata")
    metadata = {name: _plain(value) for name, value in left.items()}
    try:
        return Passage(id_, text, title or "", metadata)
    except (TypeError, ValueError) as error:
        raise BadLineError("not a passage", str(error)) from None


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


def _take(entry: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The first field of these that is there; it is no metadata."""
    return next((entry.pop(name) for name in names if entry.get(name) is not None), None)


def _plain(value: Any) -> Any:
    # Parquet has times, JSON has none.
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
