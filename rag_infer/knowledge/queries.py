"""What is asked of the record, on a connection that sees one revision. Passages come back proven unaltered."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError
from rag_infer.knowledge.checksums import dead_checksum, digest_of
from rag_infer.knowledge.image_files import image_name, named_image
from rag_infer.knowledge.passage import Passage, metadata_digest, metadata_json, text_digest
from rag_infer.knowledge.vectors import Block

T = TypeVar("T")

# SQLite's own limit on parameters of a statement is 32,766, and 999 in old builds.
IDS_PER_QUERY = 500


class Digests(NamedTuple):
    """What tells whether two passages with the same id are the same.

    Attributes:
        text: of title and text.
        metadata: of the metadata.
        vector: of the stored vector.
        encoded: whether the vector was encoded from the text; else the caller gave it.
    """

    text: bytes
    metadata: bytes
    vector: bytes
    encoded: bool


class Known(NamedTuple):
    """A passage of the record: its row, its digests, and what is said of its image."""

    row: int
    digests: Digests
    image: str


class Entry(NamedTuple):
    """A row of the table of passages, in its order, without the checksum that ends it."""

    row: int
    id: str
    title: str
    text: str
    metadata: str
    text_digest: bytes
    metadata_digest: bytes
    vector_digest: bytes
    encoded: int
    image: str = ""

    @property
    def passage(self) -> Passage:
        """The passage; an image that lies in the knowledge base has no path yet (see `ImageFiles.located`)."""
        return Passage(
            self.id, self.text, self.title, json.loads(self.metadata), image=named_image(self.image)
        )

    @property
    def checksum(self) -> bytes:
        """Of all columns; as before there were images where there is none."""
        return digest_of(self[:-1] if self.image == "" else self)

    @property
    def sealed(self) -> tuple[object, ...]:
        """The row as it is stored: with its checksum."""
        return (*self, self.checksum)


_ENTRY = ", ".join(Entry._fields)


def entry_of(row: int, passage: Passage, vector: bytes, *, encoded: bool) -> Entry:
    """The entry of a new passage; ``vector`` is the digest of its vector."""
    metadata = metadata_json(passage.metadata)
    digests = (text_digest(passage), metadata_digest(passage.metadata), vector)
    image = image_name(passage.image)
    return Entry(row, passage.id, passage.title, passage.text, metadata, *digests, int(encoded), image)


def insert_entries(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """Put entries into the table of passages, replacing those in the same rows."""
    marks = ", ".join("?" * (len(Entry._fields) + 1))
    query = f"INSERT OR REPLACE INTO passages ({_ENTRY}, checksum) VALUES ({marks})"
    connection.executemany(query, [e.sealed for e in entries])


def known_passages(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Known]:
    """Row and digests of those ids that are there."""
    found = {}
    for chunk in _chunks(ids):
        query = (
            "SELECT id, row, text_digest, metadata_digest, vector_digest, encoded, image FROM passages "
            f"WHERE id IN ({_marks(chunk)})"
        )
        for id_, row, text, metadata, vector, encoded, image in connection.execute(query, chunk):
            found[id_] = Known(row, Digests(text, metadata, vector, bool(encoded)), image)
    return found


def ids_of_texts(
    connection: sqlite3.Connection, digests: Sequence[bytes], *, besides: Sequence[int]
) -> dict[bytes, str]:
    """For those title and text digests that are there, the id of a passage that has it.

    Passages in the rows ``besides`` do not count.
    """
    found: dict[bytes, str] = {}
    excluded = ",".join(map(str, besides))
    for chunk in _chunks(digests):
        query = (
            f"SELECT text_digest, min(id) FROM passages WHERE text_digest IN ({_marks(chunk)}) "
            f"AND row NOT IN ({excluded}) GROUP BY 1"
        )
        found.update(connection.execute(query, chunk))
    return found


def passages_by_id(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Passage]:
    """The passages of those ids that are there.

    Raises:
        CorruptIndexError: one is not as it was written.
    """
    found = {}
    for chunk in _chunks(ids):
        for entry in _entries(connection, f"id IN ({_marks(chunk)})", chunk):
            found[entry.id] = entry.passage
    return found


def entries_by_row(connection: sqlite3.Connection, rows: Sequence[int]) -> dict[int, Entry]:
    """The entries of those rows that are alive.

    Raises:
        CorruptIndexError: one is not as it was written.
    """
    found = {}
    for chunk in _chunks(rows):
        for entry in _entries(connection, f"row IN ({_marks(chunk)})", chunk):
            found[entry.row] = entry
    return found


def entries_from(connection: sqlite3.Connection, row: int, count: int) -> list[Entry]:
    """The next entries from a row on, ascending.

    Raises:
        CorruptIndexError: one is not as it was written.
    """
    return list(_entries(connection, "row >= ? ORDER BY row LIMIT ?", (row, count)))


def dead_rows(connection: sqlite3.Connection, *, since: int = -1) -> NDArray[np.int64]:
    """Rows whose passage was replaced or deleted after a revision.

    Raises:
        CorruptIndexError: an entry is not as it was written.
    """
    rows = []
    query = "SELECT row, revision, checksum FROM dead WHERE revision > ?"
    for row, revision, checksum in connection.execute(query, (since,)):
        if dead_checksum(row, revision) != checksum:
            raise CorruptIndexError(f"the record's entry about the dead row {row} is not as it was written")
        rows.append(row)
    return np.array(rows, dtype=np.int64)


def dead_count(connection: sqlite3.Connection, *, since: int) -> int:
    """How many passages were replaced or deleted after a revision, as long as nothing was compacted."""
    found = connection.execute("SELECT count(*) FROM dead WHERE revision > ?", (since,)).fetchone()
    return int(found[0])


def read_blocks(connection: sqlite3.Connection, where: str = "true") -> list[Block]:
    """The checksums of the vectors, by first row.

    Raises:
        CorruptIndexError: one is none.
    """
    query = f"SELECT first_row, rows, checksum FROM blocks WHERE {where} ORDER BY first_row"
    blocks = [Block(*values) for values in connection.execute(query)]
    for block in blocks:
        if not (isinstance(block.rows, int) and block.rows > 0 and isinstance(block.checksum, bytes)):
            raise CorruptIndexError(
                f"the record's checksum of the vectors from row {block.first_row} on is not as it was written"
            )
    return blocks


def _entries(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> Iterator[Entry]:
    query = f"SELECT {_ENTRY}, checksum FROM passages WHERE {where}"
    for *columns, checksum in connection.execute(query, values):
        entry = Entry(*columns)
        if entry.checksum != checksum:
            raise CorruptIndexError(
                f"the record's passage {columns[1]!r} in row {columns[0]} is not as it was written: "
                "upsert it again, or take it from a backup"
            )
        yield entry


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), IDS_PER_QUERY):
        yield items[start : start + IDS_PER_QUERY]


def _marks(items: Sequence[object]) -> str:
    return ",".join("?" * len(items))
