"""An encoder-decoder's keys and values in memory, written in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.session import Cancellation, Session

Float = NDArray[np.float32]


class HostCache:
    """A batch's keys and values, as the graph that steps takes them; see `rag_infer.generate.device_cache.DeviceCache`.

    Args:
        cross: per layer keys ``[rows, heads, head_dim, tokens]`` and values ``[rows, heads, tokens, head_dim]`` of the
            contexts.
        past: per layer keys and values of the generated tokens, ``[questions, heads, slots, head_dim]`` in the first
            layer and ``[rows, heads, slots, head_dim]`` in the others.
    """

    def __init__(self, cross: Sequence[Float], past: Sequence[Float]) -> None:
        self._cross = list(cross)
        self._past = list(past)

    @property
    def slots(self) -> int:
        """Slots for generated tokens."""
        return int(self._past[0].shape[2])

    def run(
        self,
        session: Session,
        inputs: Mapping[str, Any],
        *,
        fetched: bool = False,
        cancellation: Cancellation | None = None,
    ) -> tuple[Float, list[Float]]:
        """Run the graph that steps: the logits, and the keys and values of the new tokens."""
        del fetched  # all is here
        known, names = dict(inputs), ["logits"]
        for i in range(len(self._past) // 2):
            for j, what in enumerate(("keys", "values")):
                known[f"past_{what}_{i}"] = self._past[2 * i + j]
                known[f"cross_{what}_{i}"] = self._cross[2 * i + j]
                names.append(f"new_{what}_{i}")
        given = {name: array for name, array in known.items() if name in session.input_names}
        logits, *new = session.run(given, names, cancellation=cancellation)
        return logits, new

    def write(self, new: Sequence[Float], used: int) -> None:
        """Put the new tokens' keys and values into the slots from ``used`` on."""
        for past, latest in zip(self._past, new, strict=True):
            past[:, :, used : used + latest.shape[2]] = latest

    def reserve(self, slots: int) -> None:
        """Have at least so many slots."""
        more = slots - self.slots
        if more > 0:
            self._past = [np.pad(x, ((0, 0), (0, 0), (0, more), (0, 0))) for x in self._past]

    def keep(self, rows: Sequence[int], questions: Sequence[int]) -> None:
        """Drop all rows but these, and all questions but theirs."""
        self._cross = [np.ascontiguousarray(x[rows]) for x in self._cross]
        self._past = [np.ascontiguousarray(x[questions if i < 2 else rows]) for i, x in enumerate(self._past)]

    def of_rows(self, rows: slice, questions: slice) -> HostCache:
        """Some rows alone, without what was generated; the arrays are the same."""
        past = [x[questions if i < 2 else rows][:, :, :0] for i, x in enumerate(self._past)]
        return HostCache([x[rows] for x in self._cross], past)
