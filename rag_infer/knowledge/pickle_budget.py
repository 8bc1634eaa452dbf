"""A limit on what a crafted pickle may make its reader hold; real files stay far below it."""

from __future__ import annotations

import sys
from typing import Any

from rag_infer.knowledge.pickle_values import ArrayValue, NotDataError

# A pickle gives items in runs of 1,000: room for that many vectors of 32,768 float32.
MAX_HELD_BYTES = 128 * 1024 * 1024
OBJECT_BYTES = 64  # about what Python takes for a small object


class Budget:
    """How much memory a file makes this process hold, about: what is on the stack, and what the memo keeps."""

    def __init__(self) -> None:
        self._held = 0
        self._kept = 0
        self._new: list[Any] = []

    def add(self, value: object) -> None:
        """Count a value that was pushed."""
        self._held += _bytes_of(value)
        if self._kept + self._held > MAX_HELD_BYTES:
            raise NotDataError(f"the file would have to be held in memory: over {MAX_HELD_BYTES:,} bytes")

    def keep(self, value: object) -> None:
        """Count a value that the memo keeps, when `release` comes."""
        self._new.append(value)

    def release(self) -> None:
        """The values on the stack have been handed out."""
        self._held = 0
        seen: set[int] = set()
        while self._new:  # a loop, not a recursion: tuples may be nested a million deep
            value = self._new.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            self._kept += _bytes_of(value)
            if isinstance(value, tuple):
                self._new += value
            elif isinstance(value, ArrayValue):
                self._new.append(value.data)


def _bytes_of(value: object) -> int:
    if isinstance(value, tuple):
        return OBJECT_BYTES + 8 * len(value)
    # A text takes four bytes for each character where one of them is beyond U+FFFF.
    return OBJECT_BYTES + (sys.getsizeof(value) if isinstance(value, str | bytes) else 0)
