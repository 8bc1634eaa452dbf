"""Checking a knowledge base, repairing it, and making it small again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError
from rag_infer.knowledge.encoders import Encoders
from rag_infer.knowledge.hnsw import check_snapshot
from rag_infer.knowledge.passage import passage_text
from rag_infer.knowledge.schema import State, read_state, write_state
from rag_infer.knowledge.store import passages_by_row
from rag_infer.knowledge.vectors import Block, Vectors
from rag_infer.knowledge.writer import Writer, insert_blocks

ROWS_PER_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What was checked and found right.

    Attributes:
        passages, rows: passages, and vectors including those of replaced and deleted ones.
        blocks: checksums of vectors compared.
        snapshot: name of the HNSW snapshot, or "".
        repaired: vectors that were encoded again.
    """

    passages: int
    rows: int
    blocks: int
    snapshot: str
    repaired: int = 0


def check(writer: Writer, *, dim: int) -> CheckReport:
    """Compare everything with its checksum and with the record.

    Raises:
        CorruptIndexError: something differs; the message has the first difference and how many there are.
    """
    with writer.record.reading() as connection:
        state = read_state(connection)
        blocks = _blocks(connection)
        problems = [*_record_problems(connection, state, blocks)]
        for block in writer.segments.damaged(state.generation, blocks):
            path = writer.segments.path_of_row(state.generation, block.first_row)
            last = block.first_row + block.rows - 1
            problems.append(
                f"{path}: the vectors of rows {block.first_row} to {last} differ from their checksum"
            )
        if state.snapshot:
            try:
                check_snapshot(writer.snapshots, state.snapshot, state.snapshot_sha256, dim=dim)
            except CorruptIndexError as error:
                problems.append(str(error))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CorruptIndexError(f"{problems[0]}{more}; 'rag-infer index check KB --repair' may mend it")
    return CheckReport(passages=state.passages, rows=state.rows, blocks=len(blocks), snapshot=state.snapshot)


def repair(writer: Writer, encoders: Encoders) -> int:
    """Encode damaged vectors again from the record's texts, in place; returns how many.

    Raises:
        CorruptIndexError: they were given by the caller and cannot be encoded.
    """
    repaired = 0
    with writer.lock.hold():
        with writer.record.reading() as connection:
            state = read_state(connection)
            encoded = {first for (first,) in connection.execute("SELECT first_row FROM blocks WHERE encoded")}
            damaged = writer.segments.damaged(state.generation, _blocks(connection))
        for block in damaged:
            if block.first_row not in encoded:
                raise CorruptIndexError(
                    f"the vectors of rows {block.first_row} to {block.first_row + block.rows - 1} were given, "
                    "not encoded: they cannot be made again; upsert these passages with their vectors"
                )
            _encode_again(writer, encoders, block)
            repaired += block.rows
        writer.clear()
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
        for rows in _live_rows(connection):
            # Vectors that can be encoded again and vectors that cannot are not mixed in a block.
            for part in np.split(rows, np.flatnonzero(np.diff(given[rows])) + 1):
                blocks = writer.segments.append(state.generation + 1, end, vectors.gather(part, dim))
                insert_blocks(connection, blocks, encoded=not given[part[0]])
                _move(connection, part.tolist(), end)
                end += len(part)
        _relabel(connection)
        write_state(
            connection,
            replace(
                state,
                revision=state.revision + 1,
                rows=end,
                generation=state.generation + 1,
                snapshot="",
                snapshot_sha256="",
            ),
        )
    writer.clear()
    writer.record.vacuum()


def _blocks(connection: sqlite3.Connection) -> list[Block]:
    found = connection.execute("SELECT first_row, rows, checksum FROM blocks ORDER BY first_row")
    return [Block(*values) for values in found]


def _record_problems(connection: sqlite3.Connection, state: State, blocks: Sequence[Block]) -> Iterator[str]:
    for (message,) in connection.execute("PRAGMA integrity_check(3)"):
        if message != "ok":
            yield f"the record: {message}"
    passages, last = connection.execute("SELECT count(*), ifnull(max(row), -1) FROM passages").fetchone()
    (dead,) = connection.execute("SELECT count(*) FROM dead").fetchone()
    if passages != state.passages or passages + dead != state.rows or last >= state.rows:
        yield (
            f"the record has {passages} passages (the last in row {last}) and {dead} dead rows, "
            f"where {state.passages} passages in {state.rows} rows are expected"
        )
    end = 0
    for block in blocks:
        if block.first_row != end:
            yield f"the record has no checksum for rows {end} to {block.first_row - 1}"
        end = block.first_row + block.rows
    if end != state.rows:
        yield f"the record has checksums for {end} rows of {state.rows}"


def _encode_again(writer: Writer, encoders: Encoders, block: Block) -> None:
    with writer.record.reading() as connection:
        generation = read_state(connection).generation
        rows = range(block.first_row, block.first_row + block.rows)
        passages = passages_by_row(connection, rows)
    vectors = np.zeros((block.rows, encoders.dim), dtype=np.float32)  # dead rows have no text any more
    if passages:
        texts = [passage_text(p) for p in passages.values()]
        vectors[[row - block.first_row for row in passages]] = encoders.passages(texts)
    with writer.record.writing() as connection:
        for made in writer.segments.append(generation, block.first_row, vectors):
            values = (made.checksum, made.first_row)
            connection.execute("UPDATE blocks SET checksum = ? WHERE first_row = ?", values)
        state = read_state(connection)
        write_state(connection, replace(state, revision=state.revision + 1))


def _rows_given(connection: sqlite3.Connection, rows: int) -> NDArray[np.bool_]:
    given = np.zeros(rows, dtype=np.bool_)
    for first, count in connection.execute("SELECT first_row, rows FROM blocks WHERE NOT encoded"):
        given[first : first + count] = True
    return given


def _live_rows(connection: sqlite3.Connection) -> Iterator[NDArray[np.int64]]:
    """Rows of passages, ascending, some at a time; those already given may be renumbered meanwhile."""
    query = "SELECT row FROM passages WHERE row > ? ORDER BY row LIMIT ?"
    last = -1
    while found := connection.execute(query, (last, ROWS_PER_BLOCK)).fetchall():
        last = found[-1][0]
        yield np.array(found, dtype=np.int64)[:, 0]


def _move(connection: sqlite3.Connection, rows: Sequence[int], start: int) -> None:
    """Give passages the rows from ``start`` on: ascending and never above the old, so that no two meet."""
    moves = list(enumerate(rows, start))
    connection.executemany("UPDATE passages SET row = ? WHERE row = ?", moves)
    connection.executemany("INSERT INTO moves VALUES (?, ?)", moves)


def _relabel(connection: sqlite3.Connection) -> None:
    """Labels with the new rows; those of dead rows go."""
    connection.execute(
        "CREATE TEMP TABLE moved AS SELECT digest, new FROM labels JOIN moves ON old = row ORDER BY 1, 2"
    )
    connection.execute("DELETE FROM labels")
    connection.execute("INSERT INTO labels SELECT digest, new FROM moved")
    connection.execute("DROP TABLE moves")
    connection.execute("DROP TABLE moved")
    connection.execute("DELETE FROM dead")
