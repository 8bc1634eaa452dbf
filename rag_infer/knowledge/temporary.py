"""A database for the time of an import: in memory while it is small, else in a file that has no name."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from rag_infer.errors import RagInferError


def temporary_database(*tables: str) -> sqlite3.Connection:
    """One with these tables; `no_room` says what writing to it may raise."""
    database = sqlite3.connect("", isolation_level=None)  # a temporary file once it outgrows its cache
    database.execute("PRAGMA journal_mode = OFF")
    for statement in tables:
        database.execute(statement)
    database.execute("BEGIN")
    return database


@contextlib.contextmanager
def no_room(error: type[RagInferError]) -> Iterator[None]:
    """Raise this error where the disk with the temporary files is full."""
    try:
        yield
    except sqlite3.OperationalError as reason:
        raise error(
            f"a temporary file cannot be written or read ({reason}): is the disk full? "
            "SQLITE_TMPDIR names another folder"
        ) from reason
