"""Changes to a knowledge base: vectors to the disk first, then one transaction that makes them count."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag_infer.knowledge.hnsw import SNAPSHOTS, remove_others
from rag_infer.knowledge.lock import WriterLock
from rag_infer.knowledge.passage import Passage, field_digest
from rag_infer.knowledge.schema import State, read_state, write_state
from rag_infer.knowledge.store import Record, rows_and_digests
from rag_infer.knowledge.vectors import Block, Segments


class Upserted(NamedTuple):
    """What an upsert did, as numbers of passages."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0


class Writer:
    """Writes to the folder of a knowledge base, one writer at a time.

    Args:
        folder: the knowledge base.
        record, segments: what lies in it.
        lock: who may write.
    """

    def __init__(self, folder: Path, record: Record, segments: Segments, lock: WriterLock) -> None:
        self.snapshots = folder / SNAPSHOTS
        self.segments = segments
        self.record = record
        self.lock = lock

    @contextlib.contextmanager
    def session(self, *, timeout: float | None = None) -> Iterator[None]:
        """Hold the writer lock; what an earlier writer left unfinished is removed first.

        Raises:
            KnowledgeBaseError: another writer holds the lock.
            CorruptIndexError: a vector file is missing or too short.
        """
        with self.lock.hold(timeout=timeout) as outermost:
            if outermost:
                self.clear()
            yield

    def clear(self) -> None:
        """Remove files and bytes that do not count. The caller holds the lock."""
        state = self.state()
        for folder in (self.segments.folder, self.snapshots):
            folder.mkdir(exist_ok=True)  # a copying program may have left out empty folders
        self.segments.recover(state.generation, state.rows)
        remove_others(self.snapshots, state.snapshot)

    def state(self) -> State:
        """The committed state."""
        with self.record.reading() as connection:
            return read_state(connection)

    def put(
        self,
        passages: Sequence[Passage],
        digests: Sequence[bytes],
        vectors: NDArray[np.float32],
        *,
        encoded: bool,
    ) -> Upserted:
        """Commit passages with their vectors; those already there with the same digest are left alone.

        Args:
            passages: with different ids.
            digests: of their contents.
            vectors: float32 ``[passages, dim]``, as they are to be stored.
            encoded: whether they can be made again from the texts.
        """
        with self.session(), self.record.writing() as connection:
            state = read_state(connection)
            known = rows_and_digests(connection, [p.id for p in passages])
            new = [i for i, p in enumerate(passages) if p.id not in known or known[p.id][1] != digests[i]]
            if not new:
                return Upserted(unchanged=len(passages))
            old = [known[passages[i].id][0] for i in new if passages[i].id in known]
            blocks = self.segments.append(state.generation, state.rows, vectors[new])
            _bury(connection, old, state.revision + 1)
            insert_passages(connection, [(passages[i], digests[i]) for i in new], first_row=state.rows)
            insert_blocks(connection, blocks, encoded=encoded)
            added = len(new) - len(old)
            after = replace(state, passages=state.passages + added, rows=state.rows + len(new))
            write_state(connection, replace(after, revision=state.revision + 1))
            return Upserted(added, len(old), len(passages) - len(new))

    def remove(self, ids: Sequence[str]) -> list[str]:
        """Delete passages; returns the ids that were there."""
        with self.session(), self.record.writing() as connection:
            state = read_state(connection)
            known = rows_and_digests(connection, ids)
            if known:
                _bury(connection, [row for row, _ in known.values()], state.revision + 1)
                left = state.passages - len(known)
                write_state(connection, replace(state, revision=state.revision + 1, passages=left))
            return [i for i in ids if i in known]


def insert_passages(
    connection: sqlite3.Connection, entries: Sequence[tuple[Passage, bytes]], *, first_row: int
) -> None:
    """Record passages and their metadata fields, in consecutive rows."""
    values = []
    labels = []
    for row, (passage, digest) in enumerate(entries, start=first_row):
        metadata = json.dumps(dict(passage.metadata), ensure_ascii=False, allow_nan=False)
        values.append((row, passage.id, passage.title, passage.text, metadata, digest))
        labels += [(field_digest(name, value), row) for name, value in passage.metadata.items()]
    connection.executemany("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?)", values)
    connection.executemany("INSERT INTO labels VALUES (?, ?)", labels)


def insert_blocks(connection: sqlite3.Connection, blocks: Sequence[Block], *, encoded: bool) -> None:
    """Record what was written to the vector files."""
    values = [(b.first_row, b.rows, b.checksum, encoded) for b in blocks]
    connection.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?)", values)


def _bury(connection: sqlite3.Connection, rows: Sequence[int], revision: int) -> None:
    """Let passages go. Their vectors and labels stay until the knowledge base is compacted."""
    connection.executemany("DELETE FROM passages WHERE row = ?", [(row,) for row in rows])
    connection.executemany("INSERT INTO dead VALUES (?, ?)", [(row, revision) for row in rows])
