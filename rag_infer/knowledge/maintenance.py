"""Repairing a knowledge base, and making it small again."""

from __future__ import annotations

import contextlib
import sqlite3
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError, RagInferWarning
from rag_infer.knowledge.check import all_entries, check, compare_words, record_problems
from rag_infer.knowledge.checksums import vector_digest
from rag_infer.knowledge.encoders import Encoders
from rag_infer.knowledge.fields import insert_fields
from rag_infer.knowledge.head import write_head
from rag_infer.knowledge.moments import read_moments, write_moments
from rag_infer.knowledge.queries import Entry, entries_by_row, insert_entries, read_blocks
from rag_infer.knowledge.schema import read_state, write_state
from rag_infer.knowledge.transaction import insert_blocks
from rag_infer.knowledge.vectors import Block, Vectors
from rag_infer.knowledge.writer import Writer


def repair(writer: Writer, encoders: Encoders) -> int:
    """Make again what can be: vectors from the texts, in place, and the tables of words and fields.

    Returns:
        How many vectors were encoded.

    Raises:
        CorruptIndexError: a text is damaged, or a vector that was given by the caller and cannot be encoded.
    """
    repaired = 0
    lost: list[str] = []
    with writer.lock.hold():
        _derive_again(writer)
        with writer.record.reading() as connection:
            state = read_state(connection)
            encoded = {block.first_row for block in read_blocks(connection, "encoded")}
            damaged = writer.segments.damaged(state.generation, read_blocks(connection))
        for block in damaged:
            if block.first_row in encoded:
                _encode_again(writer, encoders, block)
                repaired += block.rows
            else:
                lost += _give_up(writer, block, encoders.dim)
        writer.clear()
        write_head(writer.folder, writer.state().revision)  # what is missing above it is lost
    if lost:
        raise CorruptIndexError(
            f"the vectors of {len(lost)} passages were given, not encoded: they cannot be made again; upsert these "
            f"passages with their vectors, or delete them: {', '.join(map(repr, lost[:20]))}"
        )
    return repaired


def compact(writer: Writer, vectors: Vectors, *, dim: int) -> None:
    """Copy the live vectors to files of a new generation and let the old ones go.

    The caller holds the writer lock.

    Raises:
        CorruptIndexError: a vector differs from its checksum: it is not copied, and nothing is changed.
        KnowledgeBaseError: the disk is full. Nothing is changed.
    """
    check(writer, dim=dim)
    with writer.record.writing() as connection:
        state = read_state(connection)
        if state.passages == state.rows:
            return
        given = _rows_given(connection, state.rows)
        connection.execute("DELETE FROM blocks")
        connection.execute("CREATE TEMP TABLE moves (new INTEGER, old INTEGER PRIMARY KEY)")
        end = 0
        for entries in all_entries(connection):  # those already given may be renumbered meanwhile
            by_row = {e.row: e for e in entries}
            rows = np.array(list(by_row), dtype=np.int64)
            # Vectors that can be encoded again and vectors that cannot are not mixed in a block.
            for part in np.split(rows, np.flatnonzero(np.diff(given[rows])) + 1):
                blocks = writer.segments.append(state.generation + 1, end, vectors.gather(part, dim))
                insert_blocks(connection, blocks, encoded=not given[part[0]])
                _move(connection, [by_row[row] for row in part.tolist()], end)
                end += len(part)
        _renumber_fields(connection)
        # How many of the vectors that they are of are gone is not known any more.
        write_moments(connection, {})
        connection.execute("INSERT INTO lexical (lexical) VALUES ('rebuild')")
        write_state(
            connection,
            replace(
                state,
                revision=state.revision + 1,
                rows=end,
                generation=state.generation + 1,
                snapshot="",
                snapshot_sha256="",
                scan="",
                scan_sha256="",
            ),
        )
    write_head(writer.folder, writer.state().revision)
    writer.clear()
    try:
        writer.record.vacuum()
    except KnowledgeBaseError as error:
        warnings.warn(f"compacted, but the record keeps its size: {error}", RagInferWarning, stacklevel=3)


def _derive_again(writer: Writer) -> None:
    """Make the tables of fields and words and the indices anew where they are not what they are derived from."""
    with writer.record.reading() as connection:
        wrong = bool([*record_problems(connection, read_state(connection), read_blocks(connection), None)])
    with writer.record.writing() as connection:
        try:
            compare_words(connection)
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            wrong = True
        try:
            read_moments(connection)
        except CorruptIndexError:
            write_moments(connection, {})  # they are counted again when needed
        if wrong:
            connection.execute("REINDEX")
            connection.execute("INSERT INTO lexical (lexical) VALUES ('rebuild')")
            connection.execute("DELETE FROM fields")
            for entries in all_entries(connection):
                insert_fields(connection, [(e.row, e.passage.metadata) for e in entries])


def _encode_again(writer: Writer, encoders: Encoders, block: Block) -> None:
    with writer.record.reading() as connection:
        entries = entries_by_row(connection, range(block.first_row, block.first_row + block.rows))
    vectors = np.zeros((block.rows, encoders.dim), dtype=np.float32)  # dead rows have no text any more
    if entries:
        passages = [writer.images.located(e.passage) for e in entries.values()]
        vectors[[row - block.first_row for row in entries]] = encoders.of_passages(passages)
    again = [
        e._replace(vector_digest=vector_digest(vectors[row - block.first_row])) for row, e in entries.items()
    ]
    _rewrite(writer, block, vectors, again)


def _give_up(writer: Writer, block: Block, dim: int) -> list[str]:
    """Keep the vectors of a block that are right, and mark the others as lost: the ids of their passages.

    Their passages stay, with a vector of zeros and a digest that no vector has, so that upserting them with their
    vectors replaces them. What dead rows hold is of no matter.
    """
    with writer.record.reading() as connection:
        generation = read_state(connection).generation
        entries = entries_by_row(connection, range(block.first_row, block.first_row + block.rows))
    vectors = np.zeros((block.rows, dim), dtype=np.float32)
    with contextlib.suppress(CorruptIndexError):  # else the file is too short for this block
        there = writer.segments.map(generation, block.first_row + block.rows)
        vectors = there.gather(np.arange(block.first_row, block.first_row + block.rows), dim)
    lost = [
        e
        for row, e in sorted(entries.items())
        if vector_digest(vectors[row - block.first_row]) != e.vector_digest
    ]
    vectors[[e.row - block.first_row for e in lost]] = 0
    _rewrite(writer, block, vectors, [e._replace(vector_digest=b"") for e in lost])
    return [e.id for e in lost]


def _rewrite(writer: Writer, block: Block, vectors: NDArray[np.float32], entries: Sequence[Entry]) -> None:
    """Put other vectors in a block's place, with the entries that have changed."""
    with writer.record.writing() as connection:
        state = read_state(connection)
        for made in writer.segments.append(state.generation, block.first_row, vectors):
            values = (made.checksum, made.first_row)
            connection.execute("UPDATE blocks SET checksum = ? WHERE first_row = ?", values)
        insert_entries(connection, entries)
        # What was derived from the damaged vectors is no more to be used, whatever happens next.
        state = replace(state, snapshot="", snapshot_sha256="", scan="", scan_sha256="")
        write_state(connection, replace(state, revision=state.revision + 1))


def _rows_given(connection: sqlite3.Connection, rows: int) -> NDArray[np.bool_]:
    given = np.zeros(rows, dtype=np.bool_)
    for block in read_blocks(connection, "NOT encoded"):
        given[block.first_row : block.first_row + block.rows] = True
    return given


def _move(connection: sqlite3.Connection, entries: Sequence[Entry], start: int) -> None:
    """Give passages the rows from ``start`` on: ascending and never above the old, so that no two meet."""
    moves = [(row, e._replace(row=row).checksum, e.row) for row, e in enumerate(entries, start)]
    connection.executemany("UPDATE passages SET row = ?, checksum = ? WHERE row = ?", moves)
    connection.executemany("INSERT INTO moves VALUES (?, ?)", [(new, old) for new, _, old in moves])


def _renumber_fields(connection: sqlite3.Connection) -> None:
    """Fields with the new rows."""
    connection.execute(
        "CREATE TEMP TABLE moved AS "
        "SELECT name, kind, value, new FROM fields JOIN moves ON old = row ORDER BY 1, 2, 3, 4"
    )
    connection.execute("DELETE FROM fields")
    connection.execute("INSERT INTO fields SELECT name, kind, value, new FROM moved")
    connection.execute("DROP TABLE moves")
    connection.execute("DROP TABLE moved")
    connection.execute("DELETE FROM dead")
