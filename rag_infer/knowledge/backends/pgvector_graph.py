"""PostgreSQL's HNSW index: made, measured, made larger where it finds too few, and dropped where that does not help."""

from __future__ import annotations

import warnings
from dataclasses import replace

from psycopg import sql

from rag_infer.errors import RagInferWarning
from rag_infer.knowledge.backends.pgvector_connection import Connection
from rag_infer.knowledge.backends.pgvector_pool import Pool
from rag_infer.knowledge.backends.pgvector_recall import Measured, measure, read_note
from rag_infer.knowledge.backends.pgvector_schema import INDEX, State, Tables
from rag_infer.knowledge.backends.protocol import IndexWish
from rag_infer.knowledge.recall import DECISIVE, decisive

# (m, ef_construction): pgvector's own, and larger ones where that finds too few.
GRAPHS = ((16, 64), (32, 200), (64, 400))
# As for a folder.
MIN_RECALL = 0.95


class Graph:
    """The index of one knowledge base, in the hands of the only one who does upkeep.

    Args:
        pool: connections, to search with.
        tables: of the knowledge base.
        connection: outside of transactions, without time limit.
        dim: of the vectors.
        wish: how good it should be, and measured how.
    """

    def __init__(
        self,
        pool: Pool,
        tables: Tables,
        connection: Connection,
        *,
        dim: int,
        wish: IndexWish,
    ) -> None:
        self._pool = pool
        self._tables = tables
        self._connection = connection
        self._dim = dim
        self._min_recall = wish.min_recall
        self._queries = wish.queries

    def renew(self, state: State, *, changed: bool = False) -> bool:
        """Make the index where there is none, or none that finds enough; returns whether anything was done.

        Args:
            state: of the knowledge base.
            changed: whether it has been made anew since it was measured.
        """
        noted = read_note(state.note)
        if self._min_recall is None:
            self._min_recall = noted.min_recall if noted else MIN_RECALL
        tried = []
        graphs: tuple[tuple[int, int], ...] = GRAPHS
        if state.built:
            fresh = changed or noted is None or self._queries is not None
            known = self._measured(m=noted.m if noted else GRAPHS[0][0]) if fresh or noted is None else noted
            known = replace(known, min_recall=self._min_recall)
            if known.enough:
                return self._note(known) if known != noted else False
            tried.append(_words(known))
            graphs = tuple(graph for graph in GRAPHS if graph[0] > known.m)
        for m, ef_construction in graphs:
            self._make(m, ef_construction)
            known = self._measured(m=m)
            if known.enough:
                return self._note(known)
            tried.append(_words(known))
        return self._refuse(state, tried)

    def _make(self, m: int, ef_construction: int) -> None:
        self._drop()
        self._connection.execute(
            f"CREATE INDEX CONCURRENTLY {INDEX} ON {self._tables.passages} USING hnsw (embedding vector_ip_ops) "
            f"WITH (m = {m}, ef_construction = {ef_construction})"
        )
        self._connection.execute(f"ANALYZE {self._tables.passages}")

    def _measured(self, *, m: int) -> Measured:
        return self._pool.read(
            lambda connection: measure(
                connection,
                self._tables,
                self._queries,
                dim=self._dim,
                ef_search=self._pool.address.ef_search,
                m=m,
                min_recall=self._min_recall or 0.0,
            ),
            unlimited=True,
        )

    def _note(self, measured: Measured) -> bool:
        statement = sql.SQL("COMMENT ON INDEX {} IS {}").format(
            sql.Identifier(self._tables.schema, INDEX), sql.Literal(measured.to_json())
        )
        self._connection.execute(statement)
        return True

    def _refuse(self, state: State, tried: list[str]) -> bool:
        self._drop()
        warnings.warn(
            f"HNSW index refused, searches are exact: none finds {self._min_recall:g} of the {DECISIVE} nearest "
            f"passages: {'; '.join(tried)}; lower min_recall, or add a larger ef_search to the address",
            RagInferWarning,
            stacklevel=6,
        )
        return state.built

    def _drop(self) -> None:
        self._connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {self._tables.index}")


def _words(measured: Measured) -> str:
    return f"{decisive(measured.recall):.3f} with m={measured.m}, ef_search={measured.ef_search}"
