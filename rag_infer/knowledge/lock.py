"""One writer at a time: a lock that dies with its holder and says who that is."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from rag_infer.errors import KnowledgeBaseError

SECONDS_BETWEEN_TRIES = 0.05


class BusyError(KnowledgeBaseError):
    """Another writer held the lock all the time."""


class WriterLock:
    """The right to write to a knowledge base, among all processes and threads.

    The kernel releases a ``flock`` when its holder dies, so there is no stale lock to break. It is reentrant
    within a thread.

    Args:
        path: the lock file, made when missing. It stays; what is locked is the file, not its name.
        timeout: seconds to wait for another writer.
        doing: what its holder does with the knowledge base, for the message to others.
    """

    def __init__(self, path: Path, *, timeout: float, doing: str = "written to") -> None:
        if not timeout >= 0:
            raise ValueError(f"the writer's timeout must be 0 seconds or more, got {timeout}")
        self._path = path
        self._timeout = min(timeout, threading.TIMEOUT_MAX)
        self._doing = doing
        self._owner = 0
        self._threads = threading.RLock()
        self._depth = 0
        self._descriptor = -1

    @contextlib.contextmanager
    def hold(self, *, timeout: float | None = None) -> Iterator[bool]:
        """Hold the lock for a ``with`` block; yields whether this is the outermost hold.

        Raises:
            KnowledgeBaseError: another writer held it all the time; the message says who.
        """
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        if not self._threads.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise self._busy()
        try:
            outermost = self._depth == 0
            if outermost:
                self._descriptor = self._lock_file(deadline)
            self._depth += 1
            self._owner = threading.get_ident()
            try:
                yield outermost
            finally:
                self._depth -= 1
                if outermost:
                    # Closing alone would not do where a child process has inherited the descriptor.
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                    os.close(self._descriptor)
        finally:
            self._threads.release()

    def mine(self) -> bool:
        """Whether this thread holds the lock."""
        return self._depth > 0 and self._owner == threading.get_ident()

    def _lock_file(self, deadline: float) -> int:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise KnowledgeBaseError(f"{self._path} cannot be written: {error.strerror}") from error
        try:
            while not _try_lock(descriptor):
                if time.monotonic() >= deadline:
                    raise self._busy()
                time.sleep(SECONDS_BETWEEN_TRIES)
            _sign(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _busy(self) -> BusyError:
        try:
            holder = json.loads(self._path.read_text(encoding="utf-8"))
            who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            who = "another process"
        return BusyError(f"{self._path.parent} is being {self._doing} by {who}; waited {self._timeout:g} s")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(descriptor: int) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    holder = json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since})
    # The lock counts, not the signature: on a full disk there is none.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
