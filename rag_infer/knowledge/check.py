"""Comparing a knowledge base with itself: every byte with its checksum, every derived table with what it is of."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge.checksums import vector_digest
from rag_infer.knowledge.fields import entries as field_entries
from rag_infer.knowledge.hnsw import check_snapshot
from rag_infer.knowledge.moments import read_moments
from rag_infer.knowledge.queries import Entry, dead_rows, entries_from, read_blocks
from rag_infer.knowledge.scan import check_scan
from rag_infer.knowledge.schema import State, read_state
from rag_infer.knowledge.vectors import Block, Vectors
from rag_infer.knowledge.writer import Writer

ROWS_PER_BLOCK = 4096

# Compacting as fast as one can, a writer may take the files away more than once.
TRIES = 20

# A record up to this size is copied into memory to compare the index of words, which SQLite does by writing.
LARGEST_COPY = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What was checked and found right.

    Attributes:
        passages, rows: passages, and vectors including those of replaced and deleted ones.
        blocks: checksums of vectors compared.
        snapshot, scan: names of the HNSW snapshot and of the codes, or "".
        repaired: vectors that were encoded again.
    """

    passages: int
    rows: int
    blocks: int
    snapshot: str
    scan: str
    repaired: int = 0


def check(
    writer: Writer, stop: threading.Event | None = None, *, dim: int, everything: bool = True
) -> CheckReport:
    """Compare everything with its checksum and with the record.

    Args:
        writer: of the knowledge base.
        stop: ends the check when it is set.
        dim: width of its vectors.
        everything: also the snapshot, the codes and the images, each of which is checked whenever it is loaded.

    Raises:
        CorruptIndexError: something differs; the message has the first difference and how many there are.
        KnowledgeBaseError: it was stopped.
    """
    for _ in range(TRIES):
        state, blocks, problems = _problems(writer, stop, dim=dim, everything=everything)
        # A writer that compacts or swaps a snapshot takes files away from under a check; then there is a newer state.
        if not problems or _files(writer.state()) == _files(state):
            break
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CorruptIndexError(f"{problems[0]}{more}; 'rag-infer index check KB --repair' may mend it")
    return CheckReport(
        passages=state.passages, rows=state.rows, blocks=len(blocks), snapshot=state.snapshot, scan=state.scan
    )


def _files(state: State) -> tuple[object, ...]:
    """What says which files there are."""
    return state.generation, state.snapshot, state.scan


def _problems(
    writer: Writer, stop: threading.Event | None, *, dim: int, everything: bool
) -> tuple[State, list[Block], list[str]]:
    """(The state that was looked at, its blocks, what is wrong)."""
    with writer.record.reading() as connection, _interruptible(connection, stop):
        state = read_state(connection)
        blocks = read_blocks(connection)
        damaged = [b for b in blocks if not _stopped(stop) and writer.segments.damaged(state.generation, [b])]
        problems = [*_block_damage(writer, state, damaged)]
        vectors = None
        with _told() as refused:
            vectors = None if damaged else writer.segments.map(state.generation, state.rows)
        problems += refused
        problems += [*record_problems(connection, state, blocks, vectors)]
        problems += [*writer.images.problems(connection)] if everything else []
        with _told() as refused:
            read_moments(connection)
        problems += refused
        problems += [*_lexical_problems(writer, connection, stop)]
        problems += [*_derived_problems(writer, state, dim)] if everything else []
    return state, blocks, problems


def _derived_problems(writer: Writer, state: State, dim: int) -> Iterator[str]:
    try:
        if state.snapshot:
            check_snapshot(writer.snapshots, state.snapshot, state.snapshot_sha256, dim=dim)
    except CorruptIndexError as error:
        yield str(error)
    try:
        if state.scan:
            check_scan(writer.scans, state.scan, state.scan_sha256, dim=dim)
    except CorruptIndexError as error:
        yield str(error)


@contextlib.contextmanager
def _interruptible(connection: sqlite3.Connection, stop: threading.Event | None) -> Iterator[None]:
    """Statements on the connection fail once ``stop`` is set."""
    if stop is None:
        yield
        return
    connection.set_progress_handler(stop.is_set, 10_000)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)


def _stopped(stop: threading.Event | None) -> bool:
    if stop is not None and stop.is_set():
        raise KnowledgeBaseError("the check was stopped")
    return False


def record_problems(
    connection: sqlite3.Connection, state: State, blocks: Sequence[Block], vectors: Vectors | None
) -> Iterator[str]:
    """What is wrong with the tables, but for the index of words; with vectors, whether each is its passage's."""
    for (message,) in connection.execute("PRAGMA integrity_check(3)"):
        if message != "ok":
            yield f"the record: {message}"
    passages, last = connection.execute("SELECT count(*), ifnull(max(row), -1) FROM passages").fetchone()
    with _told() as refused:
        dead = dead_rows(connection)
        if passages != state.passages or passages + len(dead) != state.rows or last >= state.rows:
            yield (
                f"the record has {passages} passages (the last in row {last}) and {len(dead)} dead rows, "
                f"where {state.passages} passages in {state.rows} rows are expected"
            )
        yield from passage_problems(connection, vectors)
    yield from refused
    yield from _block_problems(state, blocks)


def all_entries(connection: sqlite3.Connection) -> Iterator[list[Entry]]:
    """All passages, some at a time, by row."""
    row = 0
    while found := entries_from(connection, row, ROWS_PER_BLOCK):
        yield found
        row = found[-1].row + 1


@contextlib.contextmanager
def _told() -> Iterator[list[str]]:
    """Collects what a reading function refuses."""
    refused: list[str] = []
    try:
        yield refused
    except CorruptIndexError as error:
        refused.append(str(error))


def _block_problems(state: State, blocks: Sequence[Block]) -> Iterator[str]:
    end = 0
    for block in blocks:
        if block.first_row != end:
            yield f"the record has no checksum for rows {end} to {block.first_row - 1}"
        end = block.first_row + block.rows
    if end != state.rows:
        yield f"the record has checksums for {end} rows of {state.rows}"


def passage_problems(connection: sqlite3.Connection, vectors: Vectors | None) -> Iterator[str]:
    """Passages whose vector is another's, and fields that are not those of the passages' metadata."""
    expected = found = 0
    for entries in all_entries(connection):
        if vectors is not None:
            yield from _unlike(entries, vectors)
        for entry in entries:
            for field in field_entries(json.loads(entry.metadata)):
                expected += hash((*field, entry.row))
    for field in connection.execute("SELECT name, kind, value, row FROM fields"):
        found += hash(field)
    # Sums, so that the order does not count (AdHash, Bellare & Micciancio 1997); Python's hash has 64 bits, and is the
    # same for 1 and 1.0, as the fields are.
    if expected != found:
        yield "the record's metadata fields are not those of its passages"


def _unlike(entries: Sequence[Entry], vectors: Vectors) -> Iterator[str]:
    rows = sum(map(len, vectors.segments))
    there = [e for e in entries if e.row < rows]
    if there:
        gathered = vectors.gather(
            np.array([e.row for e in there], dtype=np.int64), vectors.segments[0].shape[1]
        )
        for entry, vector in zip(there, gathered, strict=True):
            if vector_digest(vector) != entry.vector_digest:
                yield f"the vector in row {entry.row} is not that of passage {entry.id!r}"


def _block_damage(writer: Writer, state: State, damaged: Sequence[Block]) -> Iterator[str]:
    for block in damaged:
        path = writer.segments.path_of_row(state.generation, block.first_row)
        last = block.first_row + block.rows - 1
        yield f"{path}: the vectors of rows {block.first_row} to {last} differ from their checksum"


def _lexical_problems(
    writer: Writer, connection: sqlite3.Connection, stop: threading.Event | None
) -> Iterator[str]:
    (size,) = connection.execute(
        "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
    ).fetchone()
    try:
        if size <= LARGEST_COPY:
            with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
                connection.backup(copy)
                with _interruptible(copy, stop):
                    compare_words(copy)
        elif stop is None:  # in the background nobody is to be kept from writing
            yield from _large_lexical_problems(writer)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        _stopped(stop)
        yield f"the record's index of words is not that of its passages ({error})"


def _large_lexical_problems(writer: Writer) -> Iterator[str]:
    """In place, which SQLite takes for a write: left out while another process writes."""
    problem = ""
    hold, writing = writer.lock.hold(timeout=0), writer.record.writing()
    with contextlib.suppress(KnowledgeBaseError), hold, writing as connection:
        try:
            compare_words(connection)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            problem = f"the record's index of words is not that of its passages ({error})"
    if problem:
        yield problem


def compare_words(connection: sqlite3.Connection) -> None:
    """Compare the index of words with the passages; it changes nothing, but SQLite takes it for a write.

    Raises:
        sqlite3.DatabaseError: they differ.
    """
    connection.execute("INSERT INTO lexical (lexical, rank) VALUES ('integrity-check', 1)")
