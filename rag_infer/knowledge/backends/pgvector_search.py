"""One search in PostgreSQL: candidates by pgvector, scores by the kernel, passages, all of one revision."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.knowledge.backends.pgvector_conditions import has_nul, sized_sql
from rag_infer.knowledge.backends.pgvector_connection import Connection
from rag_infer.knowledge.backends.pgvector_rows import from_binary, to_literal, to_passage
from rag_infer.knowledge.backends.pgvector_schema import Tables, read_state
from rag_infer.knowledge.backends.protocol import Found
from rag_infer.knowledge.backends.rescore import Candidates, nearest
from rag_infer.knowledge.conditions import Condition
from rag_infer.knowledge.fields import asked_fields
from rag_infer.knowledge.passage import Passage, ScoredPassage

MAX_EF_SEARCH = 1000  # of pgvector
# An iterative scan may look at everything: what it does not find is searched for without the index.
_SCAN = """
SET LOCAL hnsw.iterative_scan = strict_order;
SET LOCAL hnsw.max_scan_tuples = 2147483647;
SET LOCAL hnsw.ef_search = {ef_search}
"""


def search(
    connection: Connection,
    tables: Tables,
    vectors: NDArray[np.float32],
    k: int,
    condition: Condition | None,
    *,
    ef_search: int,
) -> Found:
    """The k nearest passages to each vector that fulfil a condition, within one read-only transaction.

    Args:
        connection: in a transaction.
        tables: of the knowledge base.
        vectors: float32 ``[queries, dim]``, as they would be stored.
        k: at least 1.
        condition: None for all.
        ef_search: candidates that the index looks at, where there is one.
    """
    state = read_state(connection, tables)
    k = min(int(k), state.passages)
    if k == 0 or len(vectors) == 0:
        return Found([[] for _ in vectors], state.revision)
    if state.indexed:
        scan_index(connection, ef_search=ef_search, k=k)
    proposal = Proposal(connection, tables, condition, indexed=state.indexed)
    found = [nearest(partial(proposal.fetch, vector), vector, k, longest=state.longest) for vector in vectors]
    wanted = sorted({int(age) for _, ages in found for age in ages})
    passages = _passages(connection, tables, wanted)
    hits = [
        [
            ScoredPassage(**vars(passages[int(age)]), score=float(score))
            for score, age in zip(scores, ages, strict=True)
        ]
        for scores, ages in found
    ]
    if condition is not None and not any(hits):
        _check_fields(connection, tables, condition)
    return Found(hits, state.revision)


def scan_index(connection: Connection, *, ef_search: int, k: int) -> None:
    """How an index is to be searched in this transaction."""
    connection.execute(_SCAN.format(ef_search=max(ef_search, min(2 * k, MAX_EF_SEARCH))))


class Proposal:
    """What the server finds near a vector under a condition.

    Args:
        connection: in a transaction.
        tables: of the knowledge base.
        condition: None for all.
        indexed: whether the HNSW index is to be used.

    Raises:
        ValueError: a condition with more values than a statement takes.
    """

    def __init__(
        self, connection: Connection, tables: Tables, condition: Condition | None, *, indexed: bool
    ) -> None:
        self._cursor = connection.cursor(binary=True)
        self._tables = tables
        self._indexed = indexed
        self._where, self._parameters = sized_sql(condition)

    def fetch(self, vector: NDArray[np.float32], wanted: int) -> Candidates:
        """So many candidates, from the index if there is one and it finds as many."""
        if self._indexed:
            found = self._run("embedding <#> %s::vector", vector, wanted)
            if len(found) == wanted:
                return self._candidates(found, len(vector), complete=False)
        # The index does not serve a sum: this looks at every passage that fulfils the condition.
        found = self._run("(embedding <#> %s::vector) + 0, age", vector, wanted)
        return self._candidates(found, len(vector), complete=len(found) < wanted)

    def _run(self, order: str, vector: NDArray[np.float32], wanted: int) -> list[tuple[Any, ...]]:
        query = f"SELECT age, embedding FROM {self._tables.passages} WHERE {self._where} ORDER BY {order} LIMIT %s"
        return self._cursor.execute(query, [*self._parameters, to_literal(vector), wanted]).fetchall()

    def _candidates(self, found: list[tuple[Any, ...]], dim: int, *, complete: bool) -> Candidates:
        rows = np.array([age for age, _ in found], dtype=np.int64)
        return Candidates(rows, from_binary([embedding for _, embedding in found], dim), complete)


def _passages(connection: Connection, tables: Tables, ages: list[int]) -> dict[int, Passage]:
    query = f"SELECT age, id, title, text, metadata FROM {tables.passages} WHERE age = ANY(%s)"
    return {age: to_passage(*content) for age, *content in connection.execute(query, [ages])}


def _check_fields(connection: Connection, tables: Tables, condition: Condition) -> None:
    """Refuse a condition that asks for a field which no passage has, as a folder does. Nothing has been found."""
    for name in sorted(set(asked_fields(condition))):
        there = f"SELECT 1 FROM {tables.passages} WHERE fields ? %s LIMIT 1"
        if has_nul(name) or connection.execute(there, [name]).fetchone() is None:
            query = f"SELECT DISTINCT jsonb_object_keys(fields) FROM {tables.passages}"
            known = ", ".join(sorted(repr(found) for (found,) in connection.execute(query))) or "none"
            raise ValueError(f"no passage has the metadata field {name!r}; the fields are: {known}")
