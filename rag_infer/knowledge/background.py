"""One thread that does a piece of work again each time something has changed."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

from rag_infer.errors import RagInferWarning


class StoppedError(Exception):
    """The work was told to stop; nobody else sees this."""


class Background:
    """Runs `work` in a daemon thread after `notice`, once for any number of notices that came meanwhile.

    Args:
        work: is given a function that raises `StoppedError` once it is to stop, and calls that now and then.
    """

    def __init__(self, work: Callable[[Callable[[], None]], None]) -> None:
        self._work = work
        self._changed = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="rag_infer index", daemon=True)
        self._thread.start()

    def notice(self) -> None:
        """Something has changed."""
        self._changed.set()

    def close(self) -> None:
        """Stop, waiting until the work has done so."""
        self._stopping = True
        self._changed.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _check(self) -> None:
        if self._stopping:
            raise StoppedError

    def _run(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            try:
                self._check()
                self._work(self._check)
            except StoppedError:
                return
            except Exception as error:
                # Whatever it is, the knowledge base works without: this thread has nobody else to tell.
                warnings.warn(f"index not renewed in the background: {error}", RagInferWarning, stacklevel=2)
