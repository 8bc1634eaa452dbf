"""Proving a knowledge base unaltered when it is opened, beside whatever else is being loaded.

What was altered on the disk must not be searched. A small knowledge base is proven before its first answer; a large
one, which takes seconds to minutes to read, while it already answers, and it stops when damage is found.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge.folder import sizes
from rag_infer.knowledge.store import RECORD
from rag_infer.knowledge.vectors import VECTORS

# Up to this many bytes of record and vectors the first search waits.
SMALL = 64 * 1024 * 1024

# Who has opened it may have models to load, which reading all of it would hold up. A search does not wait for this.
SECONDS_TO_GET_READY = 1.0

WAYS = ("auto", "wait", "never")


class Verification:
    """A check in a thread of its own, begun by the first search or soon by itself.

    Args:
        check: raises CorruptIndexError where something is wrong; given an event, it ends soon after that is set.
        folder: of the knowledge base; its size decides under "auto".
        way: "wait": no search before the end; "auto": so for a small one; "never": no check.
    """

    def __init__(self, check: Callable[[threading.Event], object], folder: Path, way: str) -> None:
        self._found: KnowledgeBaseError | None = None
        self._done = threading.Event()
        self._stop = threading.Event()
        self._begin = threading.Event()
        self._waits = way == "wait" or (way == "auto" and _bytes(folder) <= SMALL)
        if way == "never":
            self._done.set()
            return
        threading.Thread(target=self._run, args=(check,), name="rag_infer verification", daemon=True).start()

    def stop(self) -> None:
        """End it; afterwards it has no file open."""
        self._stop.set()
        self._begin.set()
        self._done.wait()

    def demand(self) -> None:
        """Refuse to go on with what is known to be damaged.

        Raises:
            CorruptIndexError: what the check has found.
            KnowledgeBaseError: it could not read everything.
        """
        self._begin.set()
        if self._waits:
            self._done.wait()
        if self._found is not None:
            raise type(self._found)(str(self._found)) from self._found

    def _run(self, check: Callable[[threading.Event], object]) -> None:
        self._begin.wait(SECONDS_TO_GET_READY)
        try:
            check(self._stop)
        except KnowledgeBaseError as error:
            if not self._stop.is_set():
                self._found = error
        except (
            Exception
        ) as error:  # nobody else would hear of it, and what was not proven must not count as proven
            self._found = KnowledgeBaseError(f"it could not be verified: {error!r}")
        finally:
            self._done.set()


def check_way(way: str) -> str:
    """How to verify.

    Raises:
        ValueError: an unknown way.
    """
    if way not in WAYS:
        raise ValueError(f"verify must be one of {', '.join(WAYS)}, got {way!r}")
    return way


def _bytes(folder: Path) -> int:
    found = sizes(folder)
    return found[RECORD] + found[VECTORS]
