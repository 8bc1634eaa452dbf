"""One search in Qdrant: candidates by the server, scores by the kernel, conditions looked at again where needed."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from rag_infer.knowledge.backends.protocol import Found
from rag_infer.knowledge.backends.qdrant_conditions import to_filter
from rag_infer.knowledge.backends.qdrant_payload import age_of, to_passage
from rag_infer.knowledge.backends.qdrant_server import Server
from rag_infer.knowledge.backends.qdrant_state import State
from rag_infer.knowledge.backends.rescore import Candidates, nearest
from rag_infer.knowledge.conditions import Condition, Exists, matches
from rag_infer.knowledge.fields import asked_fields
from rag_infer.knowledge.passage import Passage, ScoredPassage


def search(
    server: Server,
    state: State,
    vectors: NDArray[np.float32],
    k: int,
    condition: Condition | None,
    *,
    exact: bool,
) -> Found:
    """The k nearest passages to each vector that fulfil a condition.

    Args:
        server: where the collection is.
        state: the revision, and the length that no vector exceeds.
        vectors: float32 ``[queries, dim]``, as they would be stored.
        k: at least 1.
        condition: None for all.
        exact: whether every vector is looked at, instead of the HNSW graph.
    """
    proposal = _Proposal(server, condition, exact=exact)
    hits = []
    for vector in vectors:
        scores, rows = nearest(partial(proposal.fetch, vector), vector, k, longest=state.longest)
        hits.append(
            [
                ScoredPassage(**vars(proposal.passages[row]), score=float(score))
                for score, row in zip(scores, rows.tolist(), strict=True)
            ]
        )
    if condition is not None and not any(hits):
        _check_fields(server, condition)
    return Found(hits, state.revision)


class _Proposal:
    """What the server finds near a vector under a condition.

    Attributes:
        passages: those that were proposed last, by their rows.
    """

    def __init__(self, server: Server, condition: Condition | None, *, exact: bool) -> None:
        self.passages: list[Passage] = []
        self._server = server
        self._condition = condition
        self._translation = to_filter(condition)
        self._exact = exact

    def fetch(self, vector: NDArray[np.float32], wanted: int) -> Candidates:
        """So many candidates that fulfil the condition; where the filter lets through others, more are asked for."""
        asked = wanted
        while True:
            points = self._points(vector, asked)
            last = len(points) < asked
            exact = self._translation.exact
            found = [(point, to_passage(point.payload or {})) for point in points]
            fitting = [both for both in found if exact or matches(self._condition, both[1].metadata)]
            # One who stops at a filter's surplus would return too few.
            if last or len(fitting) >= wanted or exact:
                break
            asked *= 4
        if last and not self._exact:
            # A graph may lead to fewer than there are: nothing is left out without looking.
            return self._complete(vector, wanted)
        # Numbered in the order of age: what two processes have written together may be of the same age.
        fitting.sort(key=lambda both: (age_of(both[0].payload or {}), str(both[0].id)))
        self.passages = [passage for _, passage in fitting]
        rows = np.arange(len(fitting), dtype=np.int64)
        return Candidates(rows, _vectors([p for p, _ in fitting], len(vector)), last)

    def _complete(self, vector: NDArray[np.float32], wanted: int) -> Candidates:
        self._exact = True
        return self.fetch(vector, wanted)

    def _parameters(self, limit: int) -> models.SearchParams | None:
        if self._server.local:  # which always looks at every vector, and warns of being told to
            return None
        return models.SearchParams(exact=self._exact, hnsw_ef=max(self._server.address.ef_search, limit))

    def _points(self, vector: NDArray[np.float32], limit: int) -> list[models.ScoredPoint]:
        def ask(client: QdrantClient, collection: str) -> list[models.ScoredPoint]:
            return client.query_points(
                collection,
                query=vector.tolist(),
                query_filter=self._translation.filter,
                search_params=self._parameters(limit),
                limit=limit,
                with_payload=["id", "title", "text", "metadata", "age"],
                with_vectors=True,
            ).points

        return self._server.read(lambda client: ask(client, self._server.address.name))


def _vectors(points: list[models.ScoredPoint], dim: int) -> NDArray[np.float32]:
    """Float32 ``[points, dim]``."""
    return np.array([point.vector for point in points], dtype=np.float32).reshape(len(points), dim)


def _check_fields(server: Server, condition: Condition) -> None:
    """Refuse a condition that asks for a field which no passage has, as a folder does. Nothing has been found."""
    for name in sorted(set(asked_fields(condition))):
        having = partial(_count, collection=server.address.name, condition=Exists(name))
        everything = partial(_count, collection=server.address.name, condition=None)
        if server.read(everything) and not server.read(having):
            raise ValueError(f"no passage has the metadata field {name!r}")


def _count(client: QdrantClient, *, collection: str, condition: Condition | None) -> int:
    return client.count(collection, count_filter=to_filter(condition).filter, exact=True).count
