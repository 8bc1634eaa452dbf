"""`QdrantBackend`: a knowledge base in Qdrant.

Qdrant has no transactions: an upsert of many passages becomes visible batch by batch, a search during it may see
some of them, and the revision is raised after the last one. A call that fails in the middle leaves what was
written; the same call again completes it. Threads of one process take turns; one process at a time should write.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge.backends import qdrant_state
from rag_infer.knowledge.backends.address import Address
from rag_infer.knowledge.backends.digests import with_metadata
from rag_infer.knowledge.backends.protocol import BackendSettings, Found, IndexWish, Piece
from rag_infer.knowledge.backends.qdrant_payload import (
    age_of,
    digest_of,
    point_id,
    point_problem,
    to_passage,
    to_payload,
    whole,
)
from rag_infer.knowledge.backends.qdrant_points import POINTS_AT_ONCE, fulfilling, in_requests, scrolled
from rag_infer.knowledge.backends.qdrant_search import search
from rag_infer.knowledge.backends.qdrant_server import Server
from rag_infer.knowledge.check import CheckReport
from rag_infer.knowledge.conditions import Condition
from rag_infer.knowledge.passage import Passage
from rag_infer.knowledge.rebuild import AUTO_EXACT_PASSAGES
from rag_infer.knowledge.transaction import Upserted


class QdrantBackend:
    """A `SearchBackend` on Qdrant. Make one with `create` or `open`."""

    def __init__(self, server: Server, settings: BackendSettings) -> None:
        self.place = server.address.shown
        self.settings = settings
        self._server = server
        self._collection = server.address.name
        # Of this process's threads: two that raised the number of rows together would give passages the same age.
        self._writing = threading.RLock()

    @classmethod
    def open(cls, address: Address) -> QdrantBackend:
        """Connect to a knowledge base.

        Raises:
            KnowledgeBaseError: there is none, it is of a newer format, or the server cannot be reached.
        """
        server = Server(address)
        try:
            _, settings = qdrant_state.read(server)
        except BaseException:
            server.close()
            raise
        return cls(server, settings)

    @classmethod
    def create(cls, address: Address, settings: BackendSettings) -> QdrantBackend:
        """Make an empty knowledge base and connect to it.

        Raises:
            KnowledgeBaseError: there is one already, or the server cannot be reached.
        """
        server = Server(address, make=True)
        try:
            qdrant_state.create(server, settings)
        except BaseException:
            server.close()
            raise
        return cls(server, settings)

    @classmethod
    def exists(cls, address: Address) -> bool:
        """Whether there is a knowledge base."""
        if Server.is_nowhere(address):
            return False
        server = Server(address)
        try:
            return qdrant_state.exists(server)
        finally:
            server.close()

    def search(self, vectors: NDArray[np.float32], k: int, condition: Condition | None) -> Found:
        """The k passages that fulfil a condition with the largest inner products, per vector.

        Passages that are written meanwhile may be among them although the revision is older.
        """
        state, _ = qdrant_state.read(self._server)
        count = self.count()
        # A server makes room for as many as are asked for.
        k = min(int(k), count)
        if k == 0:
            return Found([[] for _ in vectors], state.revision)
        return search(self._server, state, vectors, k, condition, exact=not self._indexed(state.kind, count))

    def digests(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Content digest of those ids that are there."""
        return {payload["id"]: digest_of(payload) for payload in self._retrieve(ids, ["id", "digest"])}

    def upsert(self, pieces: Iterable[Piece]) -> Upserted:
        """Write passages, batch by batch; those with the same digest are left alone."""
        added: set[str] = set()
        replaced: set[str] = set()
        unchanged: set[str] = set()
        for piece in filter(lambda piece: piece.passages, pieces):  # encoded as they come, while others write
            with self._writing:
                known = self.digests([p.id for p in piece.passages])
                new = [i for i, p in enumerate(piece.passages) if known.get(p.id) != piece.digests[i]]
                self._write(piece, new)
            for i in new:
                id_ = piece.passages[i].id
                if id_ not in added:  # an id may come again in a later piece
                    (replaced if id_ in known else added).add(id_)
            unchanged.update(p.id for p in piece.passages)
        if added or replaced:
            self._raise_revision()
        return Upserted(len(added), len(replaced), len(unchanged - added - replaced))

    def update_metadata(self, changes: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Set fields of passages' metadata, one after the other; returns those of the ids that were there."""
        fields = ["id", "title", "text", "metadata", "digest", "age"]
        with self._writing:
            # All of them first: what no passage can have is refused before anything is written.
            described = [self._described(p, changes) for p in self._retrieve(list(changes), fields)]
            for payload in described:
                self._server.read(partial(_overwrite, collection=self._collection, payload=payload))
            if described:
                self._raise_revision()
        there = {payload["id"] for payload in described}
        return [i for i in changes if i in there]

    def delete(self, ids: Sequence[str], condition: Condition | None = None) -> list[str]:
        """Delete passages, by ids and by a condition; returns the ids that were there."""
        with self._writing:
            there = self.digests(ids)
            gone = [i for i in ids if i in there]
            if condition is not None:
                gone += [i for i in fulfilling(self._server, condition) if i not in there]
            for start in range(0, len(gone), POINTS_AT_ONCE):
                points: list[Any] = [point_id(i) for i in gone[start : start + POINTS_AT_ONCE]]
                self._server.read(partial(_delete, collection=self._collection, points=points))
            if gone:
                self._raise_revision()
        return gone

    def get(self, ids: Sequence[str]) -> dict[str, Passage]:
        """The passages of those ids that are there."""
        found = self._retrieve(ids, ["id", "title", "text", "metadata"])
        return {payload["id"]: to_passage(payload) for payload in found}

    def count(self) -> int:
        """How many passages there are."""
        return self._server.read(lambda client: client.count(self._collection, exact=True)).count

    def revision(self) -> int:
        """Number of the last change; 0 for an empty knowledge base."""
        return qdrant_state.read(self._server)[0].revision

    def build_index(self, wish: IndexWish, on_progress: Callable[[int], None] | None) -> bool:  # noqa: ARG002  # at once
        """Note the kind of index. The server makes its graph by itself; the kind says whether a search uses it.

        Raises:
            KnowledgeBaseError: the recall is to be measured: the graph changes whenever the server likes.
        """
        if wish.min_recall is not None or wish.queries is not None:
            raise KnowledgeBaseError(
                f"{self.place}: min_recall and queries are not for Qdrant, whose graph changes by itself"
            )
        with self._writing:
            state, settings = qdrant_state.read(self._server)
            if wish.kind is None or wish.kind == state.kind:
                return False
            qdrant_state.write(self._server, replace(state, kind=wish.kind), settings)
        count = self.count()
        return self._indexed(wish.kind, count) != self._indexed(state.kind, count)

    def compact(self) -> None:
        """Nothing: the server's optimiser removes deleted points and renews its graph by itself."""

    def check(self) -> CheckReport:
        """Read every point and compare it with what its payload says.

        Raises:
            CorruptIndexError: something differs.
        """
        seen, state = 0, qdrant_state.read(self._server)[0]
        for record in scrolled(self._server, None, vectors=True):
            problem = point_problem(record, dim=self.settings.dim, rows=state.rows, longest=state.longest)
            if problem:
                raise CorruptIndexError(f"{self.place}: {problem}: upsert it again")
            seen += 1
        return CheckReport(passages=self.count(), rows=seen, blocks=seen, snapshot="", scan="")

    def info(self) -> dict[str, Any]:
        """Sizes, settings and the state of the index, as plain values."""
        state, _ = qdrant_state.read(self._server)
        collection = self._server.read(lambda client: client.get_collection(self._collection))
        count = self.count()
        return {
            "passages": count,
            "dead_rows": 0,
            "revision": state.revision,
            "index": state.kind,
            "search": "hnsw" if self._indexed(state.kind, count) else "exact",
            "indexed_rows": collection.indexed_vectors_count or 0,
            "bytes": {"vectors": 4 * self.settings.dim * count},
            "server": "qdrant-client's local mode" if self._server.local else "Qdrant",
        }

    def close(self) -> None:
        """Close the connections. Closing again is harmless."""
        self._server.close()

    def _raise_revision(self) -> None:
        with self._writing:
            state, settings = qdrant_state.read(self._server)
            qdrant_state.write(self._server, replace(state, revision=state.revision + 1), settings)

    def _write(self, piece: Piece, new: Sequence[int]) -> None:
        """Write these passages of a piece, in requests that a server takes."""
        state, settings = qdrant_state.read(self._server)
        for chosen in in_requests(piece, new):
            # The length first: a search that knew too small a one could be wrong about the last places.
            longest = float(np.linalg.norm(piece.vectors[chosen].astype(np.float64), axis=1).max()) * (
                1 + 1e-9
            )
            state = replace(state, longest=max(state.longest, longest), rows=state.rows + len(chosen))
            qdrant_state.write(self._server, state, settings)
            self._put(piece, chosen, first_age=state.rows - len(chosen))

    def _described(
        self, payload: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Any]:
        passage = to_passage(payload)
        passage = replace(passage, metadata={**passage.metadata, **changes[passage.id]})
        return to_payload(passage, with_metadata(digest_of(payload), passage.metadata), age_of(payload))

    def _indexed(self, kind: str, count: int) -> bool:
        return kind == "hnsw" or (kind == "auto" and count > AUTO_EXACT_PASSAGES)

    def _put(self, piece: Piece, chosen: Sequence[int], *, first_age: int) -> None:
        points = [
            models.PointStruct(
                id=point_id(piece.passages[i].id),
                vector=piece.vectors[i].tolist(),
                payload=to_payload(piece.passages[i], piece.digests[i], age),
            )
            for age, i in enumerate(chosen, first_age)
        ]
        # Repeatable: the same points again are the same points.
        self._server.read(lambda client: client.upsert(self._collection, points, wait=True))

    def _retrieve(self, ids: Sequence[str], fields: list[str]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(ids), POINTS_AT_ONCE):
            points = [point_id(i) for i in ids[start : start + POINTS_AT_ONCE]]
            ask = partial(_retrieve, collection=self._collection, points=points, fields=fields)
            for record in self._server.read(ask):
                yield whole(record, fields)


def _retrieve(
    client: QdrantClient, *, collection: str, points: Sequence[str], fields: list[str]
) -> list[models.Record]:
    return client.retrieve(collection, points, with_payload=fields)


def _overwrite(client: QdrantClient, *, collection: str, payload: dict[str, Any]) -> None:
    client.overwrite_payload(collection, payload, points=[point_id(payload["id"])], wait=True)


def _delete(client: QdrantClient, *, collection: str, points: list[Any]) -> None:
    client.delete(collection, models.PointIdsList(points=points), wait=True)
