"""How many of the nearest passages PostgreSQL's HNSW index finds, against the exact kernel, and where that is kept.

It is kept as the comment on the index, so that it goes where the index goes. An index without it is not searched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rag_infer import _kernels
from rag_infer.knowledge.backends.pgvector_connection import Connection
from rag_infer.knowledge.backends.pgvector_rows import from_binary
from rag_infer.knowledge.backends.pgvector_schema import State, Tables, read_state
from rag_infer.knowledge.backends.pgvector_search import Proposal, scan_index
from rag_infer.knowledge.backends.rescore import nearest
from rag_infer.knowledge.recall import CUTOFFS, SAMPLED_QUERIES, decisive, without_own

BYTES_AT_ONCE = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was found out about an index.

    Attributes:
        recall: at each of `CUTOFFS` that there were passages for, as ``{"@10": 0.98}``.
        queries, source: how many, and whether they were "given" or "stored" vectors.
        passages: how many there were.
        ef_search: with how many candidates.
        m: links of a node of the graph.
        min_recall: what was asked for.
    """

    recall: Mapping[str, float]
    queries: int
    source: str
    passages: int
    ef_search: int
    m: int
    min_recall: float

    @property
    def enough(self) -> bool:
        """Whether it may be used."""
        return decisive(self.recall) >= self.min_recall

    def to_json(self) -> str:
        """As text, for the index's comment."""
        return json.dumps(asdict(self))


def read_note(note: str | None) -> Measured | None:
    """What `Measured.to_json` wrote; None for another comment, or none."""
    try:
        values = json.loads(note or "")
        return Measured(**values)
    except (ValueError, TypeError):
        return None


def measure(
    connection: Connection,
    tables: Tables,
    queries: NDArray[np.float32] | None,
    *,
    dim: int,
    ef_search: int,
    m: int,
    min_recall: float,
) -> Measured:
    """Search with the index, and exactly with the kernel, in one read-only transaction.

    Every vector is read once, a block at a time.

    Args:
        connection: in a transaction.
        tables: of the knowledge base, which has an index.
        queries: float32 ``[queries, dim]`` as they would be stored; None to draw stored vectors, each of which is left
            out of its own answers.
        dim: of the vectors.
        ef_search: candidates that a search looks at.
        m, min_recall: to be noted.
    """
    state = read_state(connection, tables)
    own, wanted = _drawn(connection, tables, dim) if queries is None else _given(queries)
    spare = int(queries is None)
    count = min(max(CUTOFFS), state.passages - spare)
    recall: dict[str, float] = {}
    if count > 0:
        best = without_own(*_exact(connection, tables, wanted, count + spare), own)[:, :count]
        found = without_own(
            *_by_index(connection, tables, state, wanted, count + spare, ef_search=ef_search), own
        )
        cutoffs = [k for k in CUTOFFS if k <= count]
        recall = {f"@{k}": float((found[:, :k] >= best[:, k - 1 : k]).mean()) for k in cutoffs}
    return Measured(
        recall=recall,
        queries=len(wanted),
        source="stored" if queries is None else "given",
        passages=state.passages,
        ef_search=ef_search,
        m=m,
        min_recall=min_recall,
    )


def _drawn(connection: Connection, tables: Tables, dim: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ages int64 ``[queries]`` and vectors of some passages, the same ones each time."""
    query = f"SELECT age FROM {tables.passages} ORDER BY hashint8(age), age LIMIT %s"
    ages = [age for (age,) in connection.execute(query, [SAMPLED_QUERIES])]
    query = f"SELECT age, embedding FROM {tables.passages} WHERE age = ANY(%s) ORDER BY age"
    rows = connection.execute(query, [ages], binary=True).fetchall()
    return np.array([age for age, _ in rows], dtype=np.int64), from_binary([v for _, v in rows], dim)


def _given(queries: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return np.full(len(queries), -1, dtype=np.int64), queries


def _exact(
    connection: Connection, tables: Tables, queries: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(Scores float32, ages int64), both ``[queries, count]``, of the best among all passages."""
    dim = queries.shape[1]
    scores = np.full((len(queries), count), -np.inf, dtype=np.float32)
    ages = np.full((len(queries), count), -2, dtype=np.int64)
    with connection.cursor("vectors_to_compare", binary=True) as cursor:
        cursor.itersize = max(1, BYTES_AT_ONCE // (4 * dim))
        cursor.execute(f"SELECT age, embedding FROM {tables.passages}")
        while rows := cursor.fetchmany(cursor.itersize):
            vectors = from_binary([vector for _, vector in rows], dim)
            of_block, found = _kernels.topk(vectors, queries, min(count, len(rows)))
            block_ages = np.array([age for age, _ in rows], dtype=np.int64)[found]
            scores = np.concatenate([scores, of_block], axis=1)
            ages = np.concatenate([ages, block_ages], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
            scores, ages = np.take_along_axis(scores, order, 1), np.take_along_axis(ages, order, 1)
    return scores, ages


def _by_index(
    connection: Connection,
    tables: Tables,
    state: State,
    queries: NDArray[np.float32],
    count: int,
    *,
    ef_search: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(Scores float32, ages int64), both ``[queries, count]``, as a search finds them."""
    scores = np.full((len(queries), count), -np.inf, dtype=np.float32)
    ages = np.full((len(queries), count), -2, dtype=np.int64)
    scan_index(connection, ef_search=ef_search, k=max(CUTOFFS))
    # In a small table the planner would rather look at everything; a larger one is what is asked about.
    connection.execute("SET LOCAL enable_seqscan = off")
    proposal = Proposal(connection, tables, None, indexed=True)
    for i, query in enumerate(queries):
        found, rows = nearest(partial(proposal.fetch, query), query, count, longest=state.longest)
        scores[i, : len(found)], ages[i, : len(rows)] = found, rows
    return scores, ages
