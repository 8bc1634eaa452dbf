"""Which rows of a revision fulfil the conditions asked for last: a filter that comes again is not looked up again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import NDArray

# A mask has a byte for each row; the last one is kept however large it is.
MASK_BYTES = 32 * 1024 * 1024


class Masks:
    """The masks of one revision, the least recently used ones forgotten. Safe to share between threads."""

    def __init__(self, limit: int = MASK_BYTES) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._masks: OrderedDict[str, NDArray[np.bool_]] = OrderedDict()

    def of(self, condition: Hashable, make: Callable[[], NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """Bool ``[rows]``, not to be written to: what ``make`` returned for this condition, or returns now."""
        key = repr(condition)  # of plain values: equal texts mean equal conditions
        with self._lock:
            mask = self._masks.get(key)
            if mask is not None:
                self._masks.move_to_end(key)
                return mask
        mask = make()
        mask.flags.writeable = False
        with self._lock:
            self._masks[key] = mask
            while len(self._masks) > 1 and sum(m.nbytes for m in self._masks.values()) > self._limit:
                self._masks.popitem(last=False)
        return mask
