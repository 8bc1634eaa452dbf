"""The SQLite record: what counts as true about a knowledge base. Vectors lie elsewhere; how many count is here.

Readers work on a snapshot: everything within one `Record.reading` block is of one revision, whatever is being
committed meanwhile, and no reader waits for a writer.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge.passage import Passage
from rag_infer.knowledge.schema import SCHEMA, Settings, State, read_settings

T = TypeVar("T")

RECORD = "record.sqlite"

# SQLite's own limit on parameters of a statement is 32,766, and 999 in old builds.
IDS_PER_QUERY = 500


class Record:
    """The record's connections.

    Raises:
        KnowledgeBaseError: there is no knowledge base, or it is of a newer format.
        CorruptIndexError: the file is no SQLite database, or lacks its tables.
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
        with self.reading() as connection:
            self.settings = read_settings(connection, self.path)

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
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    connection.execute("PRAGMA query_only = 1")
        finally:
            self._give_back(connection)

    def vacuum(self) -> None:
        """Give space of deleted passages back to the file system. The caller holds the writer lock."""
        connection = self._borrow()
        try:
            with _typed_errors(self.path):
                connection.execute("PRAGMA query_only = 0")
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
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

    def _borrow(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise KnowledgeBaseError(f"the knowledge base {self.path.parent} is closed")
            if self._idle:
                return self._idle.pop()
        return connect(self.path)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed and not connection.in_transaction:
                self._idle.append(connection)
                return
        connection.close()


def connect(path: Path) -> sqlite3.Connection:
    """A connection that begins and ends transactions only when told, and only reads unless told."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    if not os.access(path.parent, os.W_OK) and not path.with_name(RECORD + "-wal").exists():
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"  # a read-only disk
    with _typed_errors(path):
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            connection.execute("PRAGMA query_only = 1")
        except BaseException:
            connection.close()
            raise
    return connection


def create_record(folder: Path, settings: Settings) -> None:
    """Write an empty record into a folder."""
    connection = sqlite3.connect(folder / RECORD, isolation_level=None)
    try:
        with _typed_errors(folder / RECORD):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript("BEGIN;" + SCHEMA)
            values = [(f.name, json.dumps(getattr(settings, f.name))) for f in fields(settings)]
            connection.executemany("INSERT INTO settings VALUES (?, ?)", values)
            connection.execute("INSERT INTO state VALUES (1, ?, ?, ?, ?, ?, ?)", astuple(State()))
            connection.execute("COMMIT")
    finally:
        connection.close()


def rows_and_digests(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, tuple[int, bytes]]:
    """Row and content digest of those ids that are there."""
    found = {}
    for chunk in _chunks(ids):
        query = f"SELECT id, row, digest FROM passages WHERE id IN ({_marks(chunk)})"
        found.update({id_: (row, digest) for id_, row, digest in connection.execute(query, chunk)})
    return found


def passages_by_id(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Passage]:
    """The passages of those ids that are there."""
    found = {}
    for chunk in _chunks(ids):
        query = f"SELECT id, text, title, metadata FROM passages WHERE id IN ({_marks(chunk)})"
        for id_, text, title, metadata in connection.execute(query, chunk):
            found[id_] = Passage(id_, text, title, json.loads(metadata))
    return found


def passages_by_row(connection: sqlite3.Connection, rows: Sequence[int]) -> dict[int, Passage]:
    """The passages of those rows that are alive."""
    found = {}
    for chunk in _chunks(rows):
        query = f"SELECT row, id, text, title, metadata FROM passages WHERE row IN ({_marks(chunk)})"
        for row, id_, text, title, metadata in connection.execute(query, chunk):
            found[row] = Passage(id_, text, title, json.loads(metadata))
    return found


def rows_with_field(connection: sqlite3.Connection, digest: bytes) -> NDArray[np.int64]:
    """Rows, dead ones included, whose passage has the metadata field of this digest (see `field_digest`)."""
    found = connection.execute("SELECT row FROM labels WHERE digest = ?", (digest,))
    return np.fromiter((row for (row,) in found), dtype=np.int64)


def dead_rows(connection: sqlite3.Connection, *, since: int = -1) -> NDArray[np.int64]:
    """Rows whose passage was replaced or deleted after a revision."""
    found = connection.execute("SELECT row FROM dead WHERE revision > ?", (since,))
    return np.fromiter((row for (row,) in found), dtype=np.int64)


@contextlib.contextmanager
def _typed_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        code = error.sqlite_errorcode & 0xFF
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise KnowledgeBaseError(
                f"{path} could not be written or read ({error}): is the disk full? Committed passages are kept"
            ) from error
        if code == sqlite3.SQLITE_ERROR and "no such" in str(error):
            raise CorruptIndexError(f"{path} is not a whole knowledge base: {error}") from error
        raise KnowledgeBaseError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise CorruptIndexError(f"{path} is damaged: {error}") from error


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), IDS_PER_QUERY):
        yield items[start : start + IDS_PER_QUERY]


def _marks(items: Sequence[object]) -> str:
    return ",".join("?" * len(items))
