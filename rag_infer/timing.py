"""Milliseconds per stage of a request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("tokenise", "encode", "search", "compose", "prefill", "decode")


class Stopwatch:
    """Adds up the time spent in named stages, and the total since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._spent = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time inside the block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._spent[stage] += time.perf_counter() - started

    def timings(self) -> dict[str, float]:
        """Milliseconds by stage, and ``total``."""
        total = time.perf_counter() - self._started
        return {stage: seconds * 1000 for stage, seconds in self._spent.items()} | {"total": total * 1000}
