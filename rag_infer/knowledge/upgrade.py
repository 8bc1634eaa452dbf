"""From older formats of the record to the present one, in one transaction: no passage is encoded again.

Format 1 had no index of words, no digests of rows, and metadata fields by digest alone. Format 2 had no images.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import astuple
from pathlib import Path

import numpy as np

from rag_infer.errors import CorruptIndexError
from rag_infer.knowledge.checksums import dead_checksum, vector_digest
from rag_infer.knowledge.fields import insert_fields
from rag_infer.knowledge.lock import WriterLock
from rag_infer.knowledge.passage import Passage
from rag_infer.knowledge.queries import Entry, entry_of, insert_entries
from rag_infer.knowledge.schema import (
    CHECKSUM,
    DEAD,
    FIELDS,
    FORMAT_VERSION,
    IMAGES,
    LEXICAL,
    PASSAGES,
    STATE,
    Settings,
    State,
    demand_unaltered,
    read_version,
    read_written,
    write_settings,
    write_state,
)
from rag_infer.knowledge.store import Record
from rag_infer.knowledge.vectors import VECTORS, Segments, Vectors

ROWS_AT_ONCE = 4096


def upgrade(folder: Path, lock: WriterLock) -> None:
    """Bring an older record to the present format; one that is present already is only looked at.

    Raises:
        KnowledgeBaseError: there is no knowledge base, it is of a newer format, or it cannot be written.
        CorruptIndexError: it is damaged.
    """
    record = Record(folder)
    try:
        if _version(record) == FORMAT_VERSION:
            return
        with lock.hold(), record.writing() as connection:
            written = read_written(connection, record.path)
            version = read_version(written, record.path)
            if version == FORMAT_VERSION:
                return  # another process was quicker
            if version == 2:
                demand_unaltered(written, written.pop(CHECKSUM, ""), record.path)
            try:
                old = {name: json.loads(value) for name, value in written.items()}
                settings = Settings(**{**old, "format_version": FORMAT_VERSION})
                if version == 1:
                    _add_digests(connection, settings, folder)
                else:
                    _run(connection, IMAGES)
            except (ValueError, TypeError, ArithmeticError) as error:
                raise CorruptIndexError(
                    f"{record.path}: the record of format {version} is damaged: {error}"
                ) from error
            write_settings(connection, settings)
    finally:
        record.close()


def _version(record: Record) -> int:
    with record.reading() as connection:
        return read_version(read_written(connection, record.path), record.path)


def _run(connection: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        connection.execute(statement)  # executescript would commit


def _add_digests(connection: sqlite3.Connection, settings: Settings, folder: Path) -> None:
    names = "revision, passages, rows, generation, snapshot, snapshot_sha256"
    found = connection.execute(f"SELECT {names} FROM state").fetchone() or ()
    if [type(value) for value in found] != [int, int, int, int, str, str]:  # format 1 has no checksum of it
        raise CorruptIndexError(f"the record's state is not as it was written: {found}")
    state = State(*found)
    dead = connection.execute("SELECT row, revision FROM dead").fetchall()
    segments = Segments(folder / VECTORS, dim=settings.dim, rows_per_segment=settings.rows_per_segment)
    vectors = segments.map(state.generation, state.rows)
    connection.execute("ALTER TABLE passages RENAME TO old_passages")
    for table in ("labels", "dead", "state"):
        connection.execute(f"DROP TABLE {table}")
    _run(connection, STATE + PASSAGES + DEAD + FIELDS + LEXICAL + IMAGES)
    _copy_passages(connection, vectors, settings.dim)
    values = [(row, revision, dead_checksum(row, revision)) for row, revision in dead]
    connection.executemany("INSERT INTO dead VALUES (?, ?, ?)", values)
    connection.execute("INSERT INTO lexical (lexical) VALUES ('rebuild')")
    connection.execute("DROP TABLE old_passages")
    write_state(connection, State(*astuple(state)))


def _copy_passages(connection: sqlite3.Connection, vectors: Vectors, dim: int) -> None:
    query = "SELECT row, id, title, text, metadata FROM old_passages WHERE row > ? ORDER BY row LIMIT ?"
    last = -1
    while found := connection.execute(query, (last, ROWS_AT_ONCE)).fetchall():
        last = found[-1][0]
        rows = np.array([row for row, *_ in found], dtype=np.int64)
        if rows[-1] >= sum(map(len, vectors.segments)):
            raise CorruptIndexError(
                f"the record has a passage in row {rows[-1]}, beyond the vectors that count"
            )
        encoded = _encoded(connection, int(rows[0]), int(rows[-1]))
        entries: list[Entry] = []
        for (row, id_, title, text, metadata), vector in zip(found, vectors.gather(rows, dim), strict=True):
            passage = Passage(id_, text, title, json.loads(metadata))
            entries.append(entry_of(row, passage, vector_digest(vector), encoded=row in encoded))
        insert_entries(connection, entries)
        insert_fields(connection, [(e.row, e.passage.metadata) for e in entries])


def _encoded(connection: sqlite3.Connection, first: int, last: int) -> set[int]:
    """Rows from first to last whose vectors were encoded from the texts."""
    query = "SELECT first_row, rows FROM blocks WHERE encoded AND first_row <= ? AND first_row + rows > ?"
    blocks = connection.execute(query, (last, first)).fetchall()
    return {row for start, rows in blocks for row in range(max(first, start), min(last + 1, start + rows))}
