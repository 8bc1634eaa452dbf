"""A passage, what may be in one, and the digests by which equal contents are recognised."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

MAX_PASSAGE_BYTES = 1_000_000

DIGEST_BYTES = 16


@dataclass(frozen=True)
class Passage:
    """A piece of text that can be retrieved.

    Attributes:
        id: its name, unique in the knowledge base.
        text: what it says, at most 1,000,000 bytes of UTF-8.
        title: where it is from, or "".
        metadata: fields to filter by; values are what JSON can hold.

    Raises:
        TypeError: an attribute of another type, or a metadata value that JSON cannot hold.
        ValueError: an empty id or text, a text that is too long, or one that is no Unicode text.

    >>> Passage("p1", "Paris is the capital of France.", title="Paris", metadata={"topic": "Places"}).title
    'Paris'
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "text", "title"):
            _check_text(name, getattr(self, name))
        if not self.id or not self.text.strip():
            raise ValueError(f"passage {self.id!r} has an empty {'text' if self.id else 'id'}")
        size = len(self.text.encode())
        if size > MAX_PASSAGE_BYTES:
            raise ValueError(
                f"passage {self.id!r} has a text of {size:,} bytes, over {MAX_PASSAGE_BYTES:,}: split it"
            )
        if not isinstance(self.metadata, Mapping):
            raise TypeError(f"metadata must be a mapping, got {type(self.metadata).__name__}")
        for name, value in self.metadata.items():
            if not isinstance(name, str):
                raise TypeError(f"a metadata field's name must be a string, got {name!r}")
            _check_text("metadata", name)
            _check_json(name, value)


@dataclass(frozen=True)
class ScoredPassage(Passage):
    """A retrieved passage.

    Attributes:
        score: its raw similarity to the question (dot product, or cosine), from the stored float32 vector.
    """

    score: float = field(kw_only=True)


def passage_text(passage: Passage) -> str:
    """What the passage encoder reads: the title and the text.

    >>> passage_text(Passage("p1", "It lies on the Seine.", title="Paris"))
    'Paris. It lies on the Seine.'
    """
    return f"{passage.title}. {passage.text}" if passage.title else passage.text


def content_digest(passage: Passage, vector: bytes = b"") -> bytes:
    """16 bytes that differ when title, text, metadata or a vector given by the caller differ."""
    content = [passage.title, passage.text, _comparable(dict(passage.metadata))]
    digest = blake2b(_canonical(content), digest_size=DIGEST_BYTES)
    digest.update(vector)
    return digest.digest()


def field_digest(name: str, value: Any) -> bytes:
    """16 bytes that are equal for equal metadata fields: 2020 equals 2020.0, but True does not equal 1.

    >>> field_digest("year", 2020) == field_digest("year", 2020.0)
    True
    >>> field_digest("new", True) == field_digest("new", 1)
    False
    """
    _check_json(name, value)
    return blake2b(_canonical([name, _comparable(value)]), digest_size=DIGEST_BYTES).digest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _comparable(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {k: _comparable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(v) for v in value]
    return value


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} has the lone surrogate {value[error.start]!r} at character {error.start}: not Unicode text"
        ) from None


def _check_json(name: str, value: Any, depth: int = 0) -> None:
    if depth > 32:
        raise ValueError(f"metadata field {name!r} is nested more than 32 deep")
    if isinstance(value, str):
        _check_text(f"metadata field {name!r}", value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"metadata field {name!r} is {value}, which JSON cannot hold")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"metadata field {name!r} has the key {key!r}, not a string")
            _check_text(f"metadata field {name!r}", key)
            _check_json(name, inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_json(name, inner, depth + 1)
    elif not (value is None or isinstance(value, bool | int | float)):
        raise TypeError(f"metadata field {name!r} is a {type(value).__name__}, which JSON cannot hold")
