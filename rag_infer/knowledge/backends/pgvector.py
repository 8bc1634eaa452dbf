"""`PgvectorBackend`: a knowledge base in PostgreSQL with pgvector.

A passage and its vector are one row, so that one transaction holds both; every call is one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.knowledge.backends.address import Address
from rag_infer.knowledge.backends.pgvector_connection import Connection
from rag_infer.knowledge.backends.pgvector_pool import Pool
from rag_infer.knowledge.backends.pgvector_rows import key_of, to_passage
from rag_infer.knowledge.backends.pgvector_schema import Tables, create, exists, read_settings, read_state
from rag_infer.knowledge.backends.pgvector_search import search
from rag_infer.knowledge.backends.pgvector_upkeep import Upkeep
from rag_infer.knowledge.backends.pgvector_write import delete, update_metadata, upsert
from rag_infer.knowledge.backends.protocol import BackendSettings, Found, IndexWish, Piece
from rag_infer.knowledge.check import CheckReport
from rag_infer.knowledge.conditions import Condition
from rag_infer.knowledge.passage import Passage
from rag_infer.knowledge.transaction import Upserted


class PgvectorBackend:
    """A `SearchBackend` on PostgreSQL. Make one with `create` or `open`."""

    def __init__(self, pool: Pool, settings: BackendSettings, *, writer_timeout: float) -> None:
        self.place = pool.address.shown
        self.settings = settings
        self._pool = pool
        self._tables = Tables(pool.address.name)
        self._upkeep = Upkeep(pool, self._tables, dim=settings.dim, timeout=writer_timeout)

    @classmethod
    def open(cls, address: Address, *, writer_timeout: float) -> PgvectorBackend:
        """Connect to a knowledge base.

        Raises:
            KnowledgeBaseError: there is none, it is of a newer format, or the server cannot be reached.
        """
        pool = Pool(address, writer_timeout=writer_timeout)
        try:
            settings = read_settings(pool, Tables(address.name))
        except BaseException:
            pool.close()
            raise
        return cls(pool, settings, writer_timeout=writer_timeout)

    @classmethod
    def create(cls, address: Address, settings: BackendSettings, *, writer_timeout: float) -> PgvectorBackend:
        """Make an empty knowledge base and connect to it.

        Raises:
            KnowledgeBaseError: there is one already, pgvector is not to be had, or the server cannot be reached.
        """
        pool = Pool(address, writer_timeout=writer_timeout)
        try:
            create(pool, Tables(address.name), settings)
        finally:
            # The first connection was made before the extension was there.
            pool.close()
        return cls.open(address, writer_timeout=writer_timeout)

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Whether there is a knowledge base."""
        pool = Pool(address, writer_timeout=0)
        try:
            return exists(pool, Tables(address.name))
        finally:
            pool.close()

    def search(self, vectors: NDArray[np.float32], k: int, condition: Condition | None) -> Found:
        """The k passages that fulfil a condition with the largest inner products, per vector."""

        def work(connection: Connection) -> Found:
            ef_search = self._pool.address.ef_search
            return search(connection, self._tables, vectors, k, condition, ef_search=ef_search)

        return self._pool.read(work)

    def digests(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Content digest of those ids that are there."""
        query = f"SELECT id, digest FROM {self._tables.passages} WHERE key = ANY(%s)"
        keys = [key_of(i) for i in ids]
        return dict(self._pool.read(lambda connection: connection.execute(query, [keys]).fetchall()))

    def upsert(self, pieces: Iterable[Piece]) -> Upserted:
        """Write passages in one transaction; those with the same digest are left alone."""
        return upsert(self._pool, self._tables, pieces, dim=self.settings.dim)

    def update_metadata(self, changes: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Set fields of passages' metadata in one transaction; returns those of the ids that were there."""
        return update_metadata(self._pool, self._tables, changes)

    def delete(self, ids: Sequence[str], condition: Condition | None = None) -> list[str]:
        """Delete passages, by ids and by a condition, in one transaction; returns the ids that were there."""
        return delete(self._pool, self._tables, ids, condition)

    def get(self, ids: Sequence[str]) -> dict[str, Passage]:
        """The passages of those ids that are there."""
        query = f"SELECT id, title, text, metadata FROM {self._tables.passages} WHERE key = ANY(%s)"
        keys = [key_of(i) for i in ids]
        rows = self._pool.read(lambda connection: connection.execute(query, [keys]).fetchall())
        return {row[0]: to_passage(*row) for row in rows}

    def count(self) -> int:
        """How many passages there are."""
        return self._pool.read(lambda connection: read_state(connection, self._tables)).passages

    def revision(self) -> int:
        """Number of the last change; 0 for an empty knowledge base."""
        return self._pool.read(lambda connection: read_state(connection, self._tables)).revision

    def build_index(self, wish: IndexWish, on_progress: Callable[[int], None] | None) -> bool:
        """Make, measure or drop the HNSW index as is wished; returns whether anything was done."""
        return self._upkeep.build_index(wish, on_progress)

    def compact(self) -> None:
        """Vacuum the table and renew the index."""
        self._upkeep.compact()

    def check(self) -> CheckReport:
        """Compare every row with its checksum."""
        return self._upkeep.check()

    def info(self) -> dict[str, Any]:
        """Sizes, settings and the state of the index, as plain values."""
        return self._upkeep.figures()

    def close(self) -> None:
        """Close the connections. Closing again is harmless."""
        self._pool.close()
