"""The process that drives Ray for a build: ``python -m rag_infer.knowledge.distributed.driver``, started by `process`.

It reads what to do from its standard input, until that is closed, and writes what comes of it to its standard output.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rag_infer.errors import RagInferError
from rag_infer.knowledge.distributed.cluster import connected
from rag_infer.knowledge.distributed.messages import Begin, Connect, Connected, Failed, receive, send
from rag_infer.knowledge.distributed.stream import Stream
from rag_infer.knowledge.distributed.worker import ShippedEncoder


class Build:
    """The build at the other end of the pipes. Several threads may tell it something."""

    def __init__(self, commands: BinaryIO, results: BinaryIO) -> None:
        self._commands = commands
        self._results = results
        self._lock = threading.Lock()

    def receive(self) -> object:
        """Its next message; `EOFError` when it has no more to say."""
        return receive(self._commands)

    def tell(self, message: object) -> None:
        """Send it a message, and wait until there is room for it; `EOFError` when it is gone."""
        with self._lock:
            try:
                send(self._results, message)
            except OSError as error:
                raise EOFError(str(error)) from None


def main() -> None:
    """Serve one build."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the build gets it too, and ends this process as is due
    build = Build(*_take_pipes())
    with contextlib.suppress(EOFError), _failures_told(build):
        asked = build.receive()
        assert isinstance(asked, Connect)
        with connected(asked.address, threads=asked.threads) as room, _failures_told(build):
            shipped = ShippedEncoder.of(asked.bundle, threads=asked.threads)
            build.tell(Connected(room))
            begin = build.receive()
            assert isinstance(begin, Begin)
            with Stream(shipped, begin, build.tell) as stream:
                while True:
                    stream.obey(build.receive())


@contextlib.contextmanager
def _failures_told(build: Build) -> Iterator[None]:
    """Tell a failure at once: leaving Ray may end this process."""
    try:
        yield
    except RagInferError as error:
        build.tell(Failed(error))


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output, for this process alone; what Ray prints goes to standard error."""
    commands, results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return commands, results


if __name__ == "__main__":
    main()
