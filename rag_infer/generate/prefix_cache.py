"""Keys and values of passages that were read before: a passage comes first in a prompt and does not see the question.

What is kept is what the graph gave, so an answer is the same with and without.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


class PrefixCache:
    """The keys and values used last, up to a number of bytes. Safe to share between threads.

    Args:
        max_bytes: bound on the arrays' size; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[Hashable, Float] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return self._bytes

    def get(self, key: Hashable) -> Float | None:
        """What was put under a key, if it is still there."""
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: Hashable, keys_values: Float) -> None:
        """Keep an array, which must not be changed any more; those used longest ago make room."""
        if keys_values.nbytes > self._max_bytes:
            return
        with self._lock:
            previous = self._entries.pop(key, None)
            self._bytes += keys_values.nbytes - (0 if previous is None else previous.nbytes)
            self._entries[key] = keys_values
            while self._bytes > self._max_bytes:
                self._bytes -= self._entries.popitem(last=False)[1].nbytes
