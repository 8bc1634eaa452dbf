"""A passage, what may be in one, and the digests by which equal contents are recognised."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from rag_infer.images.image import Image
from rag_infer.knowledge.checksums import DIGEST_BYTES

# With the metadata, a passage is a line of JSON below the 8 MB that `index build` reads, whatever has to be escaped.
MAX_ID_BYTES = 10_000
MAX_TITLE_BYTES = 100_000
MAX_PASSAGE_BYTES = 1_000_000
MAX_METADATA_BYTES = 1_000_000

# Of an id in a message.
SHOWN_CHARACTERS = 200

# Made once: `json.dumps` makes one for each call that has settings, and a passage takes five.
_AS_KEPT = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_IN_ORDER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Passage:
    """A piece of text, an image, or both, that can be retrieved.

    Attributes:
        id: its name, unique in the knowledge base; at most 10,000 bytes of UTF-8.
        text: what it says, at most 1,000,000 bytes of UTF-8; may be "" where there is an image.
        title: where it is from, or "", at most 100,000 bytes of UTF-8.
        metadata: fields to filter by; values are what JSON can hold.
        image: an `rag_infer.images.Image`, or None; made of a path, bytes, a PIL image, a uint8 array or
            ``{"image": one of these}``.

    Raises:
        TypeError: an attribute of another type, or a metadata value that JSON cannot hold.
        ValueError: an empty id or text, one that is too long, metadata over 1,000,000 bytes, or what is no Unicode
            text.
        ImageError: the image's file cannot be read.

    >>> Passage("p1", "Paris is the capital of France.", title="Paris", metadata={"topic": "Places"}).title
    'Paris'
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    image: Any = None

    def __post_init__(self) -> None:
        if self.image is not None:
            object.__setattr__(self, "image", Image.of(self.image))
        if self.image is not None and isinstance(self.text, str) and not self.text.strip():
            object.__setattr__(self, "text", "")
        for name in ("id", "text", "title"):
            value = getattr(self, name)
            check_text(name, value)
            if type(value) is not str:  # a NumPy string, say
                object.__setattr__(self, name, str(value))
        if not self.id or not (self.text.strip() or self.image):
            raise ValueError(f"passage {self.id!r} has an empty {'text' if self.id else 'id'}")
        _check_length(self.id, "id", self.id, MAX_ID_BYTES, "shorten it")
        _check_length(self.id, "title", self.title, MAX_TITLE_BYTES, "shorten it")
        _check_length(self.id, "text", self.text, MAX_PASSAGE_BYTES, "split it")
        if not isinstance(self.metadata, Mapping):
            raise TypeError(f"metadata must be a mapping, got {type(self.metadata).__name__}")
        for name, value in self.metadata.items():
            if not isinstance(name, str):
                raise TypeError(f"a metadata field's name must be a string, got {name!r}")
            check_text("metadata", name)
            check_metadata_value(name, value)
        size = len(metadata_json(self.metadata).encode()) if self.metadata else 0
        if size > MAX_METADATA_BYTES:
            raise ValueError(
                f"passage {self.id!r} has metadata of {size:,} bytes as JSON, over {MAX_METADATA_BYTES:,}: "
                "keep what is not filtered by elsewhere"
            )


@dataclass(frozen=True)
class ScoredPassage(Passage):
    """A retrieved passage.

    Attributes:
        score: its raw similarity to the question (dot product, or cosine), from the stored float32 vector; in other
            modes of search theirs (see `SearchConfig`).
    """

    score: float = field(kw_only=True)


def passage_text(passage: Passage) -> str:
    """What the passage encoder reads: the title and the text; "" for an image alone.

    >>> passage_text(Passage("p1", "It lies on the Seine.", title="Paris"))
    'Paris. It lies on the Seine.'
    """
    return ". ".join(part for part in (passage.title, passage.text) if part)


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Metadata as they are kept."""
    return _AS_KEPT.encode(dict(metadata))


def text_digest(passage: Passage) -> bytes:
    """16 bytes that are equal where title, text and image are: what is encoded."""
    image = [passage.image.sha256] if passage.image else []
    return blake2b(_canonical([passage.title, passage.text, *image]), digest_size=DIGEST_BYTES).digest()


def metadata_digest(metadata: Mapping[str, Any]) -> bytes:
    """16 bytes that are equal for equal metadata, as `field_digest`."""
    return blake2b(_canonical(_comparable(dict(metadata))), digest_size=DIGEST_BYTES).digest()


def field_digest(name: str, value: Any) -> bytes:
    """16 bytes that are equal for equal metadata fields: 2020 equals 2020.0, but True does not equal 1.

    >>> field_digest("year", 2020) == field_digest("year", 2020.0)
    True
    >>> field_digest("new", True) == field_digest("new", 1)
    False
    """
    check_metadata_value(name, value)
    return blake2b(_canonical([name, _comparable(value)]), digest_size=DIGEST_BYTES).digest()


def _canonical(value: Any) -> bytes:
    return _IN_ORDER.encode(value).encode()


def _comparable(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {k: _comparable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(v) for v in value]
    return value


def _check_length(id_: str, name: str, value: str, limit: int, remedy: str) -> None:
    size = len(value.encode())
    if size > limit:
        shown = id_ if len(id_) <= SHOWN_CHARACTERS else f"{id_[:SHOWN_CHARACTERS]}..."
        article = "an" if name == "id" else "a"
        raise ValueError(
            f"passage {shown!r} has {article} {name} of {size:,} bytes, over {limit:,}: {remedy}"
        )


def check_text(name: str, value: object) -> None:
    """Refuse what is no Unicode text.

    Raises:
        TypeError: not a string.
        ValueError: it has a lone surrogate.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} has the lone surrogate {value[error.start]!r} at character {error.start}: not Unicode text"
        ) from None


def check_metadata_value(name: str, value: Any, depth: int = 0) -> None:
    """Refuse a value of a metadata field that JSON cannot hold.

    Raises:
        TypeError: of a type that JSON has not.
        ValueError: not finite, no Unicode text, or nested too deep.
    """
    if depth > 32:
        raise ValueError(f"metadata field {name!r} is nested more than 32 deep")
    if isinstance(value, str):
        check_text(f"metadata field {name!r}", value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"metadata field {name!r} is {value}, which JSON cannot hold")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"metadata field {name!r} has the key {key!r}, not a string")
            check_text(f"metadata field {name!r}", key)
            check_metadata_value(name, inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_metadata_value(name, inner, depth + 1)
    elif not (value is None or isinstance(value, bool | int | float)):
        raise TypeError(f"metadata field {name!r} is a {type(value).__name__}, which JSON cannot hold")
