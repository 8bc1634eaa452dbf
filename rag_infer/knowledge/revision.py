"""One revision, held while another process goes on writing: for what reads all of a knowledge base."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError
from rag_infer.knowledge.checksums import vector_digest
from rag_infer.knowledge.queries import Entry, entries_from
from rag_infer.knowledge.schema import State, read_settings, read_state
from rag_infer.knowledge.store import Record
from rag_infer.knowledge.vectors import Segments, Vectors

# Compacting as fast as one can, a writer may take the files away more than once.
TRIES = 20

T = TypeVar("T")


@dataclass(frozen=True)
class Revision:
    """What a read transaction sees.

    Attributes:
        connection: in the transaction.
        state: what the record says.
        vectors: all rows that count, mapped: they stay readable when a compaction removes their files.
        dim: width of a vector.
    """

    connection: sqlite3.Connection
    state: State
    vectors: Vectors
    dim: int

    def entries(self, count: int) -> Iterator[list[Entry]]:
        """The passages by age, ``count`` at a time.

        Raises:
            CorruptIndexError: one is not as it was written.
        """
        row = 0
        while found := entries_from(self.connection, row, count):
            yield found
            row = found[-1].row + 1

    def vectors_of(self, entries: Sequence[Entry]) -> NDArray[np.float32]:
        """The vectors of passages, float32 ``[passages, dim]``.

        Raises:
            CorruptIndexError: one is not as it was written.
        """
        vectors = self.vectors.gather(np.array([entry.row for entry in entries], dtype=np.int64), self.dim)
        for entry, vector in zip(entries, vectors, strict=True):
            if vector_digest(vector) != entry.vector_digest:
                raise CorruptIndexError(
                    f"the vector of passage {entry.id!r} in row {entry.row} is not as it was written: "
                    "'rag-infer index check KB --repair' may mend it"
                )
        return vectors


@contextlib.contextmanager
def holding_revision(record: Record, segments: Segments) -> Iterator[Revision]:
    """The newest revision, for a ``with`` block. No writer waits for it, but the record's log cannot shrink meanwhile.

    Raises:
        CorruptIndexError: a vector file is missing or too short, and no compaction is the reason.
    """

    def mapped(connection: sqlite3.Connection) -> tuple[State, Vectors]:
        state = read_state(connection)
        return state, segments.map(state.generation, state.rows)

    with record.reading() as connection:
        state, vectors = through_compactions(connection, mapped)
        yield Revision(connection, state, vectors, read_settings(connection, record.path).dim)


def through_compactions(connection: sqlite3.Connection, read: Callable[[sqlite3.Connection], T]) -> T:
    """What is read of the files of a connection's revision; of a newer one where they have been compacted away.

    Raises:
        CorruptIndexError: what ``read`` raised, if no compaction is the reason.
    """
    for _ in range(TRIES):
        try:
            return read(connection)
        except CorruptIndexError:
            generation = read_state(connection).generation
            connection.execute("ROLLBACK")
            connection.execute("BEGIN")
            if read_state(connection).generation == generation:
                raise
    return read(connection)
