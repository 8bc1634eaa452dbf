"""Stored values become others, of another type or not, as flipped bits in the header of a row make them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# What SQLite can take a stored value for. A text column converts none of them back, an integer column none but texts
# and numbers that are whole.
OTHERS = ("NULL", "CAST({0} AS BLOB)", "CAST({0} AS TEXT)", "0.5", "0", "-3")
ROWS_PER_TABLE = 2


class Change(NamedTuple):
    """A column of one row, the row by its place in the table, and what it becomes."""

    table: str
    column: str
    row: int
    value: str


def allow_null(kb: Path) -> None:
    """Let columns be null."""
    with contextlib.closing(sqlite3.connect(kb / "record.sqlite", isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = 1")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '')")


def changes(kb: Path) -> Iterator[Change]:
    """Every column of every table: all settings and the state, some rows of the others."""
    with contextlib.closing(sqlite3.connect(kb / "record.sqlite")) as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name != 'lexical'"
        for (table,) in connection.execute(query).fetchall():
            (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            rows = range(count) if table == "settings" else range(min(count, ROWS_PER_TABLE))
            for column in [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]:
                yield from (Change(table, column, row, value) for row in rows for value in OTHERS)


def changed(kb: Path, change: Change) -> bool:
    """Make the change; False where the table takes no such value, or it is the same."""
    table, column, row, value = change
    with contextlib.closing(sqlite3.connect(kb / "record.sqlite", isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = 1")
        columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
        key = ", ".join(name for _, name, *_, of_the_key in columns if of_the_key) or "rowid"
        where = f"({key}) IN (SELECT {key} FROM {table} LIMIT 1 OFFSET {row})"
        other = f"{value.format(column)} IS NOT {column}"
        try:
            done = connection.execute(
                f"UPDATE {table} SET {column} = {value.format(column)} WHERE {where} AND {other}"
            )
        except sqlite3.IntegrityError:  # the column takes no such value
            return False
        return done.rowcount == 1
