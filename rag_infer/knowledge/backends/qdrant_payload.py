"""How a passage lies in a Qdrant point: its id, and a payload with what conditions look at.

A point's id must be a number or a UUID: it is the UUID (version 5) of the passage's id, which is in the payload.
Equality of metadata is that of tokens (see `field_digest`), so that it is the same as everywhere.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from qdrant_client import models

from rag_infer.errors import CorruptIndexError
from rag_infer.knowledge.backends.digests import contents_digest
from rag_infer.knowledge.conditions import is_number
from rag_infer.knowledge.passage import Passage, field_digest, metadata_json

NAMESPACE = uuid.UUID("6f4b6b0e-0e0a-5c5e-9a55-7a1b7f1c2d3e")

LABELS, ELEMENTS, NAMES, NUMBERS = "labels", "elements", "names", "numbers"
KEYWORDS = (LABELS, ELEMENTS, NAMES)


def point_id(id_: str) -> str:
    """The UUID that stands for a passage's id.

    >>> point_id("p1") == point_id("p1") != point_id("p2")
    True
    """
    # By its bytes: uuid5 of a string is the same today, but says so of no other version.
    return str(uuid.uuid5(NAMESPACE, id_.encode().hex()))


def to_payload(passage: Passage, digest: bytes, age: int) -> dict[str, Any]:
    """What is stored with a vector."""
    metadata = dict(passage.metadata)
    return {
        "id": passage.id,
        "title": passage.title,
        "text": passage.text,
        # As text: a payload's own numbers and keys do not all come back as they went.
        "metadata": metadata_json(metadata),
        "digest": digest.hex(),
        "age": age,
        LABELS: [token(name, value) for name, value in metadata.items()],
        ELEMENTS: [
            token(name, item)
            for name, value in metadata.items()
            if isinstance(value, list | tuple)
            for item in value
        ],
        NAMES: [name_token(name) for name in metadata],
        NUMBERS: {name_token(name): as_float(v) for name, v in metadata.items() if is_number(v)},
    }


def whole(point: models.Record | models.ScoredPoint, fields: Sequence[str]) -> dict[str, Any]:
    """The payload of a point of ours.

    Raises:
        CorruptIndexError: it lacks one of the fields.
    """
    payload = point.payload or {}
    lacking = [name for name in fields if name not in payload]
    if lacking:
        raise CorruptIndexError(f"the point {point.id} is no passage: it has no {', '.join(lacking)}")
    return payload


def to_passage(payload: Mapping[str, Any]) -> Passage:
    """The passage of a payload.

    Raises:
        CorruptIndexError: it is none.
    """
    try:
        return Passage(payload["id"], payload["text"], payload["title"], json.loads(payload["metadata"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptIndexError(f"the payload of {payload.get('id')!r} is no passage: {error!r}") from error


def digest_of(payload: Mapping[str, Any]) -> bytes:
    """The digest of a passage's contents, as it was stored.

    Raises:
        CorruptIndexError: it is none.
    """
    try:
        return bytes.fromhex(payload["digest"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptIndexError(f"the payload of {payload.get('id')!r} has no digest: {error!r}") from error


def age_of(payload: Mapping[str, Any]) -> int:
    """The age of a passage.

    Raises:
        CorruptIndexError: it is none.
    """
    age = payload.get("age")
    if not isinstance(age, int):
        raise CorruptIndexError(f"the payload of {payload.get('id')!r} has the age {age!r}")
    return age


def point_problem(record: models.Record, *, dim: int, rows: int, longest: float) -> str:
    """What is wrong with a point, or ""; its vector may be of no more than this length.

    Raises:
        CorruptIndexError: it is no passage.
    """
    payload = whole(record, ["id", "digest", "age"])
    passage, digest = to_passage(payload), digest_of(payload)
    vector = np.asarray(record.vector, dtype=np.float32)
    named = f"point {record.id}, passage {passage.id!r},"
    if record.id != point_id(passage.id) or vector.shape != (dim,):
        return f"{named} is another one's, or its vector is not of {dim} dimensions"
    if not digest.startswith(contents_digest(passage, None)):
        return f"{named} differs from its digest"
    if payload != to_payload(passage, digest, age_of(payload)):
        return f"{named} has something else for conditions to look at than its metadata"
    if age_of(payload) >= rows or float(np.linalg.norm(vector.astype(np.float64))) > longest:
        return f"{named} has a vector or an age beyond what the state knows"
    return ""


def token(name: str, value: Any) -> str:
    """What stands for a metadata field with its value."""
    return field_digest(name, value).hex()


def name_token(name: str) -> str:
    """What stands for a metadata field's name; a letter is first, so that no path takes it for a number."""
    return "f" + blake2b(name.encode(), digest_size=16).hexdigest()


def as_float(value: int | float) -> float:
    """The nearest number that a payload's range can compare; the largest for what is larger still."""
    try:
        return float(value)
    except OverflowError:
        return sys.float_info.max if value > 0 else -sys.float_info.max
