"""A process that drives Ray for this one, which never imports it.

Ray's core ends the process that it is in, with status 1 and without a word: when it has lost its cluster, and at times
while it is left, if a thread of Ray Data lets go of its last objects just then (ray 2.60: ``GetCoreWorker`` calls
``_Exit``). Here that is an error with a message, or, where all was received, nothing at all.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import BinaryIO

from rag_infer.bundle import Bundle
from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge.distributed.messages import (
    KEPT,
    Asked,
    Begin,
    Connect,
    Connected,
    Encoded,
    End,
    Failed,
    Forget,
    Listen,
    Supply,
    receive,
    send,
)

MODULE = "rag_infer.knowledge.distributed.driver"

# So many may be encoded, or be with workers, and wait for one before them whose worker died.
BATCHES_AHEAD_PER_WORKER = 16

# To take leave of the cluster, or to end the one on this machine.
SECONDS_TO_END = 30.0


class Driver:
    """Up to a number of batches, supplied as workers want them, and back in order. For one thread.

    Args:
        address: "local", "auto" or "host:port" of a Ray cluster.
        bundle: whose passage encoder is shipped there.
        threads: of each worker.

    Attributes:
        room: for so many workers there is room in the cluster.
        most_ahead: how many batches may be supplied and not yet be received, once it has begun.

    Raises:
        KnowledgeBaseError: Ray is not installed, not to be reached, or too small. Later, of every method: a worker
            could not encode, no worker does, or the cluster has gone away.
        BundleError: the bundle has no passage encoder.
    """

    def __init__(self, address: str, bundle: Bundle, *, threads: int) -> None:
        self.most_ahead = 0
        self._batches = 0
        self._ahead = 0
        self._asked = -1
        self._listening = False
        self._supplied = 0
        self._received = 0
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # imports as we do
        )
        try:
            self._send(Connect(address, bundle, threads))
            answer = self._receive()
            assert isinstance(answer, Connected)
            self.room = answer.room
        except BaseException:
            self.close()
            raise

    def begin(self, *, batches: int) -> None:
        """Have as many workers started as there is room and work for. Once.

        Args:
            batches: the most there can be; `end` may say that there are fewer.
        """
        workers = min(self.room, batches)
        self._batches = batches
        self._ahead = 2 * workers  # laid out before they are asked for, so that no worker waits
        self.most_ahead = BATCHES_AHEAD_PER_WORKER * workers
        self._send(Begin(workers, batches))

    def wants(self) -> bool:
        """Whether workers have come so far that another batch is to be supplied."""
        return self._supplied < min(self._batches, self._asked + 1 + self._ahead)

    def supply(self, calls: Sequence[Sequence[str]]) -> None:
        """Lay out the next batch: the texts of each call of the encoder."""
        self._send(Supply(self._supplied, calls))
        self._supplied += 1

    def listen(self) -> None:
        """Have `next` return None once workers have come to where another batch is wanted."""
        beyond = self._supplied - self._ahead - 1
        if self._listening or self._supplied == self._batches or self._asked > beyond:
            return
        self._send(Listen(beyond))
        self._listening = True

    def end(self) -> None:
        """Say that what was supplied is all."""
        self._send(End(self._supplied))

    def forget(self, number: int) -> None:
        """Say that a batch is committed, and its texts are needed no more."""
        self._send(Forget(number))

    def next(self) -> Encoded | None:
        """Wait for the next batch in order, or for None, when another one may be wanted."""
        event = self._receive()
        if isinstance(event, Asked):
            self._asked = event.highest
            self._listening = False
            return None
        assert isinstance(event, Encoded)
        if event.number != self._received:
            raise KnowledgeBaseError(
                f"Ray handed back batch {event.number} where {self._received} was next; {KEPT}"
            )
        self._received += 1
        return event

    def close(self) -> None:
        """Have the process leave the cluster, and see it end; in whichever way, for all it had to say was heard."""
        for pipe in self._pipes():
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pipes(self) -> tuple[BinaryIO, BinaryIO]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout  # type: ignore[return-value]

    def _send(self, message: object) -> None:
        try:
            send(self._pipes()[0], message)
        except OSError:
            while True:  # it may have said why
                self._receive()

    def _receive(self) -> object:
        try:
            message = receive(self._pipes()[1])
        except (EOFError, OSError):
            raise self._lost() from None
        if isinstance(message, Failed):
            raise message.error
        return message

    def _lost(self) -> KnowledgeBaseError:
        try:
            ended = f"has ended with status {self._process.wait(SECONDS_TO_END)}"
        except subprocess.TimeoutExpired:
            ended = "says nothing more"
        self._stderr.seek(0)
        last = self._stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
        return KnowledgeBaseError(
            f"the Ray cluster has gone away: the process that was connected to it {ended}"
            f"{last and f' ({last})'}; {KEPT}"
        )
