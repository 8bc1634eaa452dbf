"""How a passage and its vector lie in a row: keys, checksums, and vectors in pgvector's binary form."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge.backends.pgvector_conditions import NUL, fields_json, has_nul
from rag_infer.knowledge.backends.protocol import Piece
from rag_infer.knowledge.passage import Passage, metadata_json

# pgvector's vector_send: the dimension and two unused bytes, then float32, all in network order.
_HEADER = struct.Struct(">HH")
_JSONB_VERSION = b"\x01"

COLUMNS = "key, id, title, text, metadata, fields, digest, checksum, embedding"
COLUMN_TYPES = ("bytea", "text", "text", "text", "text", "bytea", "bytea", "bytea", "bytea")

Row = tuple[bytes, str, str, str, str, bytes, bytes, bytes, bytes]


def key_of(id_: str) -> bytes:
    """32 bytes that stand for an id."""
    return blake2b(id_.encode(), digest_size=32).digest()


def to_rows(piece: Piece) -> Iterator[Row]:
    """The rows of a piece, in the order of `COLUMNS`, for COPY in binary.

    Raises:
        KnowledgeBaseError: a NUL character, which PostgreSQL cannot hold.
    """
    embeddings = to_binary(piece.vectors)
    for passage, digest, embedding in zip(piece.passages, piece.digests, embeddings, strict=True):
        check_no_nul(passage)
        metadata = metadata_json(passage.metadata)
        yield (
            key_of(passage.id),
            passage.id,
            passage.title,
            passage.text,
            metadata,
            _JSONB_VERSION + fields_json(passage.metadata).encode(),
            digest,
            checksum(passage.id, passage.title, passage.text, metadata, digest, embedding),
            embedding,
        )


def checksum(id_: str, title: str, text: str, metadata: str, digest: bytes, embedding: bytes) -> bytes:
    """16 bytes that differ when anything in a row differs."""
    found = blake2b(digest_size=16)
    for part in (id_.encode(), title.encode(), text.encode(), metadata.encode(), digest, embedding):
        found.update(len(part).to_bytes(8, "big") + part)
    return found.digest()


def to_passage(id_: str, title: str, text: str, metadata: str) -> Passage:
    """The passage of a row.

    Raises:
        CorruptIndexError: it is none.
    """
    try:
        return Passage(id_, text, title, json.loads(metadata))
    except (TypeError, ValueError) as error:
        raise CorruptIndexError(
            f"the row of passage {id_!r} is not as it was written: {error}; upsert it again, or restore a backup"
        ) from error


def to_binary(vectors: NDArray[np.float32]) -> list[bytes]:
    """Vectors float32 ``[rows, dim]`` as pgvector sends and receives them."""
    header = _HEADER.pack(vectors.shape[1], 0)
    return [header + row.tobytes() for row in vectors.astype(">f4")]


def from_binary(values: Sequence[bytes], dim: int) -> NDArray[np.float32]:
    """Vectors float32 ``[values, dim]``.

    Raises:
        CorruptIndexError: one of another dimension.
    """
    header = _HEADER.pack(dim, 0)
    for value in values:
        if value[: _HEADER.size] != header or len(value) != _HEADER.size + 4 * dim:
            raise CorruptIndexError(f"a stored vector of {len(value)} bytes is not of {dim} dimensions")
    joined = b"".join(value[_HEADER.size :] for value in values)
    return np.frombuffer(joined, dtype=">f4").reshape(len(values), dim).astype(np.float32)


def to_literal(vector: NDArray[np.float32]) -> str:
    """A vector as text; the shortest digits of a float64 read back to the same float32.

    >>> to_literal(np.array([1, 0.1], dtype=np.float32))
    '[1.0,0.10000000149011612]'
    """
    return f"[{','.join(map(repr, vector.tolist()))}]"


def check_no_nul(passage: Passage) -> None:
    """Refuse what PostgreSQL cannot hold.

    Raises:
        KnowledgeBaseError: a NUL in a text or in the metadata.
    """
    for name in ("id", "title", "text"):
        at = getattr(passage, name).find(NUL)
        if at >= 0:
            raise KnowledgeBaseError(
                f"passage {passage.id!r} has a NUL at character {at} of its {name}, which PostgreSQL cannot hold: "
                "take it out"
            )
    for field, value in passage.metadata.items():
        if has_nul(field) or has_nul(value):
            raise KnowledgeBaseError(
                f"passage {passage.id!r} has a NUL in its metadata field {field!r}, which PostgreSQL cannot hold: "
                "take it out"
            )
