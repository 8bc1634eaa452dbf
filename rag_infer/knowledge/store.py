"""The SQLite record: what counts as true about a knowledge base. Vectors lie elsewhere; how many count is here.

Readers work on a snapshot: everything within one `Record.reading` block is of one revision, whatever is being
committed meanwhile, and no reader waits for a writer.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge.schema import SCHEMA, Settings, State, write_settings, write_state

RECORD = "record.sqlite"

# Ids and digests come in no order: each insertion touches another page of their indices, which are 40 MB each for a
# million passages. In SQLite's default of 2 MB they would be written out and read again within a transaction.
WRITING_CACHE_KB, READING_CACHE_KB = 65536, 2000


class Record:
    """The record's connections.

    Raises:
        KnowledgeBaseError: there is no knowledge base.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD
        if not self.path.is_file():
            raise KnowledgeBaseError(
                f"no knowledge base at {folder}: {self.path} does not exist (make one with 'rag-infer index build')"
            )
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        self._process = os.getpid()
        # Where the folder cannot be written, a connection may be to a state that others have left behind since.
        self._pooled = os.access(folder, os.W_OK)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection on which everything read in the ``with`` block is of one revision."""
        connection = self._borrow()
        try:
            with _typed_errors(self.path):
                connection.execute("BEGIN")
                try:
                    yield connection
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
        finally:
            self._give_back(connection)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, committed at the end of the ``with`` block; whatever is raised in it undoes it.

        The caller holds the writer lock.
        """
        connection = self._borrow()
        try:
            with _typed_errors(self.path):
                connection.execute("PRAGMA query_only = 0")
                connection.execute(f"PRAGMA cache_size = -{WRITING_CACHE_KB}")
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    connection.execute(f"PRAGMA cache_size = -{READING_CACHE_KB}")
                    connection.execute("PRAGMA query_only = 1")
        finally:
            self._give_back(connection)

    def vacuum(self) -> None:
        """Give space of deleted passages back to the file system. The caller holds the writer lock."""
        connection = self._borrow()
        try:
            with _typed_errors(self.path):
                connection.execute("PRAGMA query_only = 0")
                try:
                    connection.execute("VACUUM")
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                finally:
                    connection.execute("PRAGMA query_only = 1")
        finally:
            self._give_back(connection)

    def close(self) -> None:
        """Close the connections; those in use are closed when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that opened it."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        """Refuse to go on in a child process: SQLite's connections and locks do not survive a fork.

        Raises:
            KnowledgeBaseError: this is another process than the one that opened it.
        """
        if self.forked:
            raise KnowledgeBaseError(
                f"{self.path.parent} was opened by process {self._process}, of which this is a fork: "
                "open it again in each process"
            )

    def _borrow(self) -> sqlite3.Connection:
        self.check_process()
        with self._lock:
            if self._closed:
                raise KnowledgeBaseError(f"the knowledge base {self.path.parent} is closed")
            if self._idle:
                return self._idle.pop()
        return connect(self.path)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed and not connection.in_transaction and self._pooled:
                self._idle.append(connection)
                return
        connection.close()


def connect(path: Path) -> sqlite3.Connection:
    """A connection that begins and ends transactions only when told, and only reads unless told."""
    with _typed_errors(path):
        connection = _opened(path)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            connection.execute("PRAGMA query_only = 1")
        except BaseException:
            connection.close()
            raise
    return connection


def _opened(path: Path) -> sqlite3.Connection:
    def to(mode: str) -> sqlite3.Connection:
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10, check_same_thread=False)

    if os.access(path.parent, os.W_OK):
        return to("rw")
    connection = to("ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return connection
    except sqlite3.OperationalError:  # nobody has it open, and the files that readers share cannot be made
        connection.close()
        return to("ro&immutable=1")


def create_record(folder: Path, settings: Settings) -> None:
    """Write an empty record into a folder."""
    connection = sqlite3.connect(folder / RECORD, isolation_level=None)
    try:
        with _typed_errors(folder / RECORD):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript("BEGIN;" + SCHEMA)
            write_settings(connection, settings)
            write_state(connection, State())
            connection.execute("COMMIT")
    finally:
        connection.close()


@contextlib.contextmanager
def _typed_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # it is Python's, not SQLite's: text that is no UTF-8
            raise CorruptIndexError(f"{path} is damaged: {error}") from error
        code &= 0xFF
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise KnowledgeBaseError(
                f"{path} could not be written or read ({error}): is the disk full? Committed passages are kept"
            ) from error
        if code == sqlite3.SQLITE_ERROR and "no such" in str(error):
            raise CorruptIndexError(f"{path} is not a whole knowledge base: {error}") from error
        raise KnowledgeBaseError(f"{path}: {error}") from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # a message may quote what is damaged
        raise CorruptIndexError(f"{path} is damaged: {error}") from error
