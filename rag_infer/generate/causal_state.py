"""What a decoder-only generator knows of the rows in progress: the cache's slots, and who sees which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rag_infer.generate.device_cache import DeviceCache
from rag_infer.text import larger_capacity

Float = NDArray[np.float32]


class CausalState:
    """The rows in progress and their cache.

    Attributes:
        keys_values: ``[layers, 2, rows, kv_heads, slots, head_dim]``, float32, or float16 in a bundle of that
            precision; without slots once all is on a device.
        used: slots that have been written.
        visible: bool ``[rows, queries, slots]``, the slots each query of the last step may see.
        lengths: int64 ``[rows]``, the position of the next token.
        on_device: where keys and values are once the first token is generated on a device.
    """

    on_device: DeviceCache | None = None

    def __init__(
        self, keys_values: Float, used: int, visible: NDArray[np.bool_], lengths: NDArray[np.int64]
    ) -> None:
        self.keys_values = keys_values
        self.used = used
        self.visible = visible
        self.lengths = lengths

    def move(self, cache: DeviceCache) -> None:
        """Keys and values are on a device from now on."""
        self.on_device = cache
        self.keys_values = self.keys_values[..., :0, :].copy()

    def some_rows(self, rows: Sequence[int]) -> CausalState:
        """Some rows alone, with the slots that are in use; a copy."""
        chosen = list(rows)
        keys_values = np.ascontiguousarray(self.keys_values[:, :, chosen, :, : self.used])
        return CausalState(keys_values, self.used, self.visible[chosen, :, : self.used], self.lengths[chosen])

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""
        if self.on_device is not None:
            self.on_device.keep(rows, [])
        self.keys_values = np.ascontiguousarray(self.keys_values[:, :, rows])
        self.visible = self.visible[rows]
        self.lengths = self.lengths[rows]

    def reserve(self, slots: int) -> None:
        """Make room for ``slots`` more."""
        capacity = self.visible.shape[2]
        if self.used + slots <= capacity:
            return
        larger = larger_capacity(capacity, self.used + slots)
        if self.on_device is not None:
            self.on_device.reserve(larger)
        else:
            shape = (*self.keys_values.shape[:4], larger, self.keys_values.shape[5])
            grown = np.zeros(shape, dtype=self.keys_values.dtype)
            grown[..., : self.used, :] = self.keys_values[..., : self.used, :]
            self.keys_values = grown
        self.visible = np.pad(self.visible, ((0, 0), (0, 0), (0, larger - capacity)))
