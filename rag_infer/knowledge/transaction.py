"""One transaction on a knowledge base: everything in it becomes visible together, as the next revision."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag_infer.knowledge.checksums import dead_checksum, vector_digest
from rag_infer.knowledge.conditions import Condition
from rag_infer.knowledge.fields import delete_fields, fulfilling, insert_fields
from rag_infer.knowledge.image_files import ImageFiles
from rag_infer.knowledge.passage import Passage, metadata_digest, metadata_json
from rag_infer.knowledge.queries import Entry, Known, entries_by_row, entry_of, insert_entries, known_passages
from rag_infer.knowledge.schema import read_state, write_state
from rag_infer.knowledge.vectors import Block, Segments

# Their texts are in memory while the index of words is told what they were.
BURIED_AT_ONCE = 500


class Upserted(NamedTuple):
    """What an upsert did, as numbers of passages.

    ``replaced`` are those with other contents than before, ``unchanged`` cost no work, ``duplicates`` were not stored
    because another passage has their title and text.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    duplicates: int = 0

    def plus(self, other: Upserted) -> Upserted:
        """The sums."""
        return Upserted(*(a + b for a, b in zip(self, other, strict=True)))


class Transaction:
    """Changes on a connection that is within a transaction. The caller holds the writer lock.

    Vectors and images are on the disk before the record says that they count; `finish` says it.
    """

    def __init__(self, connection: sqlite3.Connection, segments: Segments, images: ImageFiles) -> None:
        self.connection = connection
        self._segments = segments
        self._images = images
        self._before = self._state = read_state(connection)
        self._revision = self._state.revision + 1
        self._changed = False

    def put(self, passages: Sequence[Passage], vectors: NDArray[np.float32], *, encoded: bool) -> Upserted:
        """Add passages, replacing those with the same id.

        Args:
            passages: with different ids.
            vectors: float32 ``[passages, dim]``, as they are to be stored.
            encoded: whether they can be made again from the texts.
        """
        self._images.store(p.image for p in passages if p.image is not None)
        known = known_passages(self.connection, [p.id for p in passages])
        self._bury([k.row for k in known.values()])
        first = self._state.rows
        new = [
            entry_of(first + i, passage, vector_digest(vector), encoded=encoded)
            for i, (passage, vector) in enumerate(zip(passages, vectors, strict=True))
        ]
        blocks = self._segments.append(self._state.generation, first, vectors)
        insert_entries(self.connection, new)
        self._describe(new)
        insert_blocks(self.connection, blocks, encoded=encoded)
        passages_now = self._state.passages + len(new) - len(known)
        self._state = replace(self._state, passages=passages_now, rows=first + len(new))
        # What this very transaction has added before is not replaced: nobody has seen it.
        replaced = sum(k.row < self._before.rows for k in known.values())
        return Upserted(added=len(new) - len(known), replaced=replaced)

    def describe(self, known: Sequence[Known], metadata: Sequence[Mapping[str, Any]]) -> None:
        """Give passages other metadata; their texts and vectors stay."""
        if not known:
            return
        different = [
            (k, m) for k, m in zip(known, metadata, strict=True) if k.digests.metadata != metadata_digest(m)
        ]
        if not different:
            return
        known, metadata = [k for k, _ in different], [m for _, m in different]
        old = entries_by_row(self.connection, [k.row for k in known])
        new = [
            old[k.row]._replace(metadata=metadata_json(m), metadata_digest=metadata_digest(m))
            for k, m in zip(known, metadata, strict=True)
        ]
        delete_fields(self.connection, _described(old.values()))
        insert_entries(self.connection, new)
        insert_fields(self.connection, _described(new))
        self._changed = True

    def remove(self, ids: Sequence[str]) -> list[str]:
        """Delete passages; returns the ids that were there."""
        known = known_passages(self.connection, ids)
        self._bury([k.row for k in known.values()])
        self._state = replace(self._state, passages=self._state.passages - len(known))
        return [i for i in ids if i in known]

    def remove_where(self, condition: Condition) -> list[str]:
        """Delete the passages that fulfil a condition; returns their ids."""
        rows = np.flatnonzero(fulfilling(self.connection, condition, self._state.rows)).tolist()
        removed = self._bury(rows)  # rows of dead passages fulfil what is negated; they are passed over
        self._state = replace(self._state, passages=self._state.passages - len(removed))
        return removed

    def finish(self) -> int:
        """Write the new state if anything has changed; returns the revision."""
        if self._state != self._before or self._changed:
            self._state = replace(self._state, revision=self._revision)
            write_state(self.connection, self._state)
        return self._state.revision

    def _describe(self, new: Sequence[Entry]) -> None:
        """Make new passages findable by words and by metadata."""
        self.connection.executemany(
            "INSERT INTO lexical (rowid, title, text) VALUES (?, ?, ?)",
            [(e.row, e.title, e.text) for e in new],
        )
        insert_fields(self.connection, _described(new))

    def _bury(self, rows: Sequence[int]) -> list[str]:
        """Let passages go, some at a time; returns their ids. Their vectors stay until there is a compaction."""
        ids: list[str] = []
        for start in range(0, len(rows), BURIED_AT_ONCE):
            old = entries_by_row(self.connection, rows[start : start + BURIED_AT_ONCE])
            ids += [entry.id for entry in old.values()]
            self._bury_entries(list(old.values()))
        return ids

    def _bury_entries(self, old: Sequence[Entry]) -> None:
        self._changed = self._changed or bool(old)
        # An index of contents that lie elsewhere must be told what they were.
        self.connection.executemany(
            "INSERT INTO lexical (lexical, rowid, title, text) VALUES ('delete', ?, ?, ?)",
            [(e.row, e.title, e.text) for e in old],
        )
        delete_fields(self.connection, _described(old))
        self.connection.executemany("DELETE FROM passages WHERE row = ?", [(e.row,) for e in old])
        dead = [(e.row, self._revision, dead_checksum(e.row, self._revision)) for e in old]
        self.connection.executemany("INSERT INTO dead VALUES (?, ?, ?)", dead)


def insert_blocks(connection: sqlite3.Connection, blocks: Sequence[Block], *, encoded: bool) -> None:
    """Record what was written to the vector files."""
    values = [(b.first_row, b.rows, b.checksum, encoded) for b in blocks]
    connection.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?)", values)


def _described(entries: Iterable[Entry]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return ((entry.row, json.loads(entry.metadata)) for entry in entries)
