"""Digests by which a record knows its own: SQLite notices a torn page, but not one with another byte in it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 16
_KINDS = {str: b"str", bytes: b"bytes", int: b"int", float: b"float", type(None): b"NoneType"}


def digest_of(values: Iterable[object]) -> bytes:
    """16 bytes that differ when a value, its type or their number differs; values are what SQLite gives.

    >>> digest_of(["ab", "c"]) == digest_of(["a", "bc"])
    False
    """
    parts: list[bytes] = []
    for value in values:
        data = value if isinstance(value, bytes) else str(value).encode()
        parts += (b"%b %d " % (_KINDS[type(value)], len(data)), data)
    return blake2b(b"".join(parts), digest_size=DIGEST_BYTES).digest()


def vector_digest(vector: NDArray[np.float32]) -> bytes:
    """16 bytes of a stored vector."""
    return blake2b(np.ascontiguousarray(vector, dtype="<f4").data, digest_size=DIGEST_BYTES).digest()


def dead_checksum(row: int, revision: int) -> int:
    """32 bits of an entry about a dead row."""
    return zlib.crc32(f"{row} {revision}".encode())
