"""Upkeep of a knowledge base in PostgreSQL: its HNSW index, its space, its checks and its figures."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge.backends.pgvector_connection import Connection, connect
from rag_infer.knowledge.backends.pgvector_graph import Graph
from rag_infer.knowledge.backends.pgvector_pool import Pool
from rag_infer.knowledge.backends.pgvector_recall import read_note
from rag_infer.knowledge.backends.pgvector_rows import checksum, from_binary, key_of
from rag_infer.knowledge.backends.pgvector_schema import (
    INDEX,
    MAX_INDEXED_DIM,
    State,
    Tables,
    check_extension,
    read_state,
)
from rag_infer.knowledge.backends.protocol import IndexWish
from rag_infer.knowledge.check import CheckReport
from rag_infer.knowledge.index import check_kind
from rag_infer.knowledge.passage import metadata_digest
from rag_infer.knowledge.rebuild import AUTO_EXACT_PASSAGES

ROWS_AT_ONCE = 500

_EXAMINED = "id, title, text, metadata, digest, embedding, checksum, key, age, fields"


class Upkeep:
    """What an operator does to a knowledge base now and then.

    Args:
        pool: connections to it.
        tables: its tables.
        dim: of its vectors.
        timeout: seconds to wait for another one who is doing the same.
    """

    def __init__(self, pool: Pool, tables: Tables, *, dim: int, timeout: float) -> None:
        self._pool = pool
        self._tables = tables
        self._dim = dim
        self._timeout = timeout

    def build_index(self, wish: IndexWish, on_progress: Callable[[int], None] | None = None) -> bool:
        """Make or drop the index as its kind asks for. Searches and writes go on meanwhile.

        An index that finds too few of the nearest passages is made larger, and if that does not help dropped, with a
        `RagInferWarning`: searches are exact then.

        Raises:
            KnowledgeBaseError: more dimensions than pgvector's index takes, or another one is at work.
        """
        with self._alone() as connection:
            state = read_state(connection, self._tables)
            if wish.kind is not None and check_kind(wish.kind) != state.kind:
                self._demand_indexable(wish.kind)
                self._set_kind(connection, wish.kind)
                state = replace(state, kind=wish.kind)
            self._drop_unfinished(connection)
            if not self._wanted(state):
                connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {self._tables.index}")
                return state.built
            self._demand_indexable(state.kind)
            graph = self._graph(connection, wish)
            done = graph.renew(state)
            if done and on_progress is not None:
                on_progress(state.passages)
            return done

    def compact(self) -> None:
        """Vacuum the table and renew the index. Searches and writes go on meanwhile."""
        with self._alone() as connection:
            connection.execute(f"VACUUM (ANALYZE) {self._tables.passages}")
            self._drop_unfinished(connection)
            state = read_state(connection, self._tables)
            if state.built and self._wanted(state):
                connection.execute(f"REINDEX INDEX CONCURRENTLY {self._tables.index}")
                self._graph(connection, IndexWish()).renew(state, changed=True)
        self.build_index(IndexWish())

    def check(self) -> CheckReport:
        """Compare every row with its checksum, and their number with the state.

        Raises:
            CorruptIndexError: something differs.
        """
        report, problems = self._pool.read(self._examine, unlimited=True)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise CorruptIndexError(
                f"{self._pool.address.shown}: {problems[0]}{more}; upsert these passages again, or restore a backup"
            )
        return report

    def figures(self) -> dict[str, Any]:
        """Sizes and versions, as plain values."""

        def read(connection: Connection) -> dict[str, Any]:
            state = read_state(connection, self._tables)
            query = (
                "SELECT pg_total_relation_size(to_regclass(%(t)s)) - coalesce(pg_relation_size(to_regclass(%(i)s)), 0),"
                " coalesce(pg_relation_size(to_regclass(%(i)s)), 0),"
                " pg_stat_get_dead_tuples(to_regclass(%(t)s)), current_setting('server_version')"
            )
            names = {"t": self._tables.passages, "i": self._tables.index}
            found = connection.execute(query, names).fetchone() or (0, 0, 0, "")
            measured = read_note(state.note) if state.indexed else None
            return {
                "passages": state.passages,
                "dead_rows": found[2],
                "revision": state.revision,
                "index": state.kind,
                "search": "hnsw" if state.indexed else "exact",
                "recall": measured and dict(measured.recall),
                "recall_queries": measured and measured.queries,
                "recall_source": measured and measured.source,
                "recall_ef_search": measured and measured.ef_search,
                "indexed_rows": state.passages if state.indexed else 0,
                "bytes": {"passages": found[0], "index": found[1]},
                "server": f"PostgreSQL {found[3]}, pgvector {check_extension(connection, self._pool.address.shown)}",
            }

        return self._pool.read(read)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[Connection]:
        """A connection without time limit, outside of transactions, while no other one does upkeep."""
        with self._pool.typed_errors(), contextlib.closing(connect(self._pool.address)) as connection:
            connection.patience = None
            connection.execute("SET statement_timeout = 0")
            deadline = time.monotonic() + self._timeout
            # Waiting inside of the server would hold a snapshot, for which CREATE INDEX CONCURRENTLY waits.
            query = "SELECT pg_try_advisory_lock(hashtext(%s))"
            while connection.execute(query, [f"rag_infer upkeep {self._tables.schema}"]).fetchone() != (
                True,
            ):
                if time.monotonic() > deadline:
                    raise KnowledgeBaseError(
                        f"{self._pool.address.shown}: another one is building the index or compacting: try again later"
                    )
                time.sleep(0.05)
            yield connection

    def _graph(self, connection: Connection, wish: IndexWish) -> Graph:
        return Graph(self._pool, self._tables, connection, dim=self._dim, wish=wish)

    def _wanted(self, state: State) -> bool:
        # Auto stays exact where pgvector has no index for so many dimensions.
        large = state.passages > AUTO_EXACT_PASSAGES and self._dim <= MAX_INDEXED_DIM
        return state.kind == "hnsw" or (state.kind == "auto" and large)

    def _demand_indexable(self, kind: str) -> None:
        if kind == "hnsw" and self._dim > MAX_INDEXED_DIM:
            raise KnowledgeBaseError(
                f"pgvector's index takes up to {MAX_INDEXED_DIM:,} dimensions, these have {self._dim:,}: "
                "use the kind exact"
            )

    def _set_kind(self, connection: Connection, kind: str) -> None:
        milliseconds = str(max(1, int(self._timeout * 1000)))
        with connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', %s, true)", [milliseconds])
            connection.execute(f"UPDATE {self._tables.state} SET kind = %s", [kind])

    def _drop_unfinished(self, connection: Connection) -> None:
        """Drop what a build or a renewal that was cut off has left: every write would go on paying for it."""
        query = (
            "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "WHERE indrelid = to_regclass(%s) AND NOT indisvalid AND starts_with(relname, %s)"
        )
        for (name,) in connection.execute(query, [self._tables.passages, INDEX]).fetchall():
            connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")

    def _examine(self, connection: Connection) -> tuple[CheckReport, list[str]]:
        state = read_state(connection, self._tables)
        problems = []
        rows = 0
        query = f"SELECT {_EXAMINED} FROM {self._tables.passages}"
        with connection.cursor("rows_to_check", binary=True) as cursor:
            cursor.itersize = ROWS_AT_ONCE
            for row in cursor.execute(query):
                rows += 1
                problems += _row_problems(row, state, dim=self._dim)
        if rows != state.passages:
            problems.insert(0, f"{rows} passages, where the state says {state.passages}")
        index = INDEX if state.indexed else ""
        return CheckReport(passages=state.passages, rows=rows, blocks=rows, snapshot=index, scan=""), problems


def _row_problems(row: tuple[Any, ...], state: State, *, dim: int) -> list[str]:
    """What is wrong with a row of `_EXAMINED`."""
    *content, expected, key, age, fields = row
    id_, _, _, metadata, _, embedding = content
    if checksum(*content) != expected:
        return [f"passage {id_!r} differs from its checksum"]
    length = float(np.linalg.norm(from_binary([embedding], dim).astype(np.float64)))
    found = []
    if key != key_of(id_):
        found.append(f"passage {id_!r} has the key of another one")
    if metadata_digest(fields) != metadata_digest(json.loads(metadata)):
        found.append(f"what conditions see of passage {id_!r} is not its metadata")
    if age >= state.rows or length > state.longest:
        found.append(f"passage {id_!r} has a vector or an age beyond what the state knows")
    return found
