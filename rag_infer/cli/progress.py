"""A progress line on stderr, only where that is a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

WIDTH = 30
SECONDS_BETWEEN_UPDATES = 0.1


class Progress:
    """Shows ``label  [####    ]  1200/10033  410/s``; without a total, the count alone.

    Args:
        total: how many there will be, or None.
        label: what is being done.
    """

    def __init__(self, total: int | None, label: str) -> None:
        self._total = total
        self._label = label
        self._done = 0
        self._started = time.monotonic()
        self._shown = 0.0
        self._visible = sys.stderr.isatty()

    def advance(self, n: int = 1) -> None:
        """Count ``n`` more."""
        self._done += n
        now = time.monotonic()
        if self._visible and now - self._shown >= SECONDS_BETWEEN_UPDATES:
            self._shown = now
            self._show()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._visible:
            self._show()
            sys.stderr.write("\n")

    def _show(self) -> None:
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        if self._total:
            filled = min(WIDTH, WIDTH * self._done // self._total)
            count = f"[{'#' * filled}{' ' * (WIDTH - filled)}]  {self._done}/{self._total}"
        else:
            count = str(self._done)
        sys.stderr.write(f"\r{self._label}  {count}  {rate:.0f}/s ")
        sys.stderr.flush()
