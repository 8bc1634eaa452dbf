"""Connections to PostgreSQL that are kept: transactions on them, and what happens when one is lost.

Reads are tried again on a fresh connection. A write is tried again where the server says that it has not been
committed; where the connection is lost during the COMMIT itself, the server is asked what became of the transaction.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import psycopg

from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge.backends.address import Address
from rag_infer.knowledge.backends.pgvector_connection import (
    GRACE,
    UNSAFE,
    Connection,
    LostConnectionError,
    connect,
    reason_of,
    typed,
)

T = TypeVar("T")

ATTEMPTS = 5
PAUSE = (
    0.2  # seconds before a fresh connection; doubled each time: a server that restarts is back in a second
)
KEPT = 8

READING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
WRITING = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"


class Pool:
    """Connections to one knowledge base.

    Args:
        address: where it is.
        writer_timeout: seconds to wait for another writer.
    """

    def __init__(self, address: Address, *, writer_timeout: float) -> None:
        self.address = address
        self._writer_timeout = writer_timeout
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        self._process = os.getpid()

    def read(self, work: Callable[[Connection], T], *, unlimited: bool = False) -> T:
        """What ``work`` finds in one read-only transaction, all of one revision; repeated where the server was lost.

        Args:
            work: everything that the transaction does; has no effect elsewhere.
            unlimited: whether it may take longer than a search.

        Raises:
            LostConnectionError: it could not be reached, several times.
            KnowledgeBaseError: it refuses, or takes too long.
        """
        return self._again(lambda: self._once(work, unlimited=unlimited))

    def write(self, work: Callable[[Connection], T], *, repeatable: bool = True) -> T:
        """What ``work`` returns, once it is committed.

        Args:
            work: everything that the transaction does; has no effect elsewhere.
            repeatable: whether it can be done twice. Where the server was lost, it is then done again.

        Raises:
            LostConnectionError: the server was lost; nothing was committed.
            KnowledgeBaseError: it refuses; or it was lost and does not tell whether it committed.
        """

        def committed() -> T:
            with self.connection() as connection:
                connection.patience = None
                connection.execute(WRITING)
                # Passages are encoded within the transaction, which is idle meanwhile.
                connection.execute(
                    "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', '0', true), "
                    "set_config('idle_in_transaction_session_timeout', '0', true)",
                    [str(max(1, int(self._writer_timeout * 1000)))],
                )
                try:
                    result = work(connection)
                    found = connection.execute("SELECT pg_current_xact_id_if_assigned()::text").fetchone()
                    transaction = found[0] if found else None
                except BaseException:
                    _undo(connection)
                    raise
                try:
                    connection.execute("COMMIT")
                except psycopg.OperationalError as error:
                    if transaction is not None and not self._was_committed(transaction):
                        raise LostConnectionError(f"{self.address.shown}: {reason_of(error)}") from None
                return result

        return self._again(committed) if repeatable else committed()

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection outside of any transaction, given back afterwards; psycopg's errors become ours."""
        connection = self._borrow()
        try:
            with self.typed_errors():
                yield connection
        finally:
            self._give_back(connection)

    @contextlib.contextmanager
    def typed_errors(self) -> Iterator[None]:
        """Turn psycopg's errors into ours. No message of libpq is shown that could hold the password."""
        try:
            yield
        except psycopg.Error as error:
            raise typed(error, self.address) from (None if isinstance(error, UNSAFE) else error)

    def close(self) -> None:
        """Close the connections; those in use are closed when they are given back."""
        self._leave_to_parent()
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _again(self, action: Callable[[], T]) -> T:
        for attempt in range(1, ATTEMPTS):
            try:
                return action()
            except LostConnectionError:
                time.sleep(PAUSE * 2 ** (attempt - 1))
        return action()

    def _once(self, work: Callable[[Connection], T], *, unlimited: bool) -> T:
        with self.connection() as connection:
            connection.patience = self.address.timeout + GRACE
            connection.execute(READING)
            try:
                if unlimited:
                    connection.execute("SET LOCAL statement_timeout = 0")
                    connection.patience = None
                return work(connection)
            finally:
                _undo(connection)

    def _was_committed(self, transaction: str) -> bool:
        """What became of a transaction whose COMMIT was cut off."""
        unknown = KnowledgeBaseError(
            f"{self.address.shown}: the connection was lost at the commit, and whether it was committed is not known: "
            "look, or do it again (an upsert of the same passages, or a delete, changes nothing the second time)"
        )

        def status(connection: Connection) -> str | None:
            found = connection.execute("SELECT pg_xact_status(%s::xid8)", [transaction]).fetchone()
            return found[0] if found else None

        for attempt in range(10):
            try:
                found = self.read(status)
            except KnowledgeBaseError:
                raise unknown from None
            if found in ("committed", "aborted"):
                return found == "committed"
            if found is None:
                break
            time.sleep(0.05 * 2**attempt)
        raise unknown

    def _leave_to_parent(self) -> None:
        """Let go of what a parent process opened before it was forked: answers would get to the wrong one."""
        if os.getpid() != self._process:
            # Not closed, which would end the parent's session; psycopg forgets them for this process alone.
            self._idle, self._lock = [], threading.Lock()
            self._process = os.getpid()

    def _borrow(self) -> Connection:
        self._leave_to_parent()
        with self._lock:
            if self._closed:
                raise KnowledgeBaseError(f"the knowledge base {self.address.shown} is closed")
            if self._idle:
                return self._idle.pop()
        return connect(self.address)

    def _give_back(self, connection: Connection) -> None:
        idle = psycopg.pq.TransactionStatus.IDLE
        with self._lock:
            fit = not connection.closed and connection.info.transaction_status == idle
            if fit and not self._closed and len(self._idle) < KEPT:
                self._idle.append(connection)
                return
            if connection.broken:
                # The others were very likely cut off with it: each would cost another attempt.
                stale, self._idle = self._idle, []
            else:
                stale = []
        for other in [connection, *stale]:
            other.close()


def _undo(connection: Connection) -> None:
    with contextlib.suppress(psycopg.Error):
        connection.execute("ROLLBACK")
