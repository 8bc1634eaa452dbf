"""Points of a collection in portions: as many as a request of Qdrant takes, all of them, or those of a condition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from qdrant_client import QdrantClient, models

from rag_infer.knowledge.backends.protocol import Piece
from rag_infer.knowledge.backends.qdrant_conditions import to_filter
from rag_infer.knowledge.backends.qdrant_payload import age_of, to_passage, whole
from rag_infer.knowledge.backends.qdrant_server import Server
from rag_infer.knowledge.conditions import Condition, matches
from rag_infer.knowledge.passage import Passage, metadata_json

POINTS_AT_ONCE = 256
# A server refuses requests over 32 MB unless it is told otherwise. Escaped as JSON, text may double and more.
BYTES_AT_ONCE = 8_000_000
BYTES_PER_NUMBER = 20


def in_requests(piece: Piece, chosen: Sequence[int]) -> Iterator[list[int]]:
    """Those positions of a piece, in order, in parts of which each fits into a request."""
    part: list[int] = []
    size = 0
    for i in chosen:
        more = _bytes(piece.passages[i]) + BYTES_PER_NUMBER * piece.vectors.shape[1]
        if part and (len(part) == POINTS_AT_ONCE or size + more > BYTES_AT_ONCE):
            yield part
            part, size = [], 0
        part.append(i)
        size += more
    if part:
        yield part


def scrolled(
    server: Server, condition: Condition | None, *, vectors: bool = False
) -> Iterator[models.Record]:
    """All points that a condition's filter lets through."""
    ask = partial(
        _scroll, collection=server.address.name, scroll_filter=to_filter(condition).filter, vectors=vectors
    )
    offset: Any = None
    while True:
        records, offset = server.read(partial(ask, offset=offset))
        yield from records
        if offset is None:
            return


def fulfilling(server: Server, condition: Condition) -> list[str]:
    """Ids of the passages that fulfil a condition, by age."""
    found = []
    for record in scrolled(server, condition):
        payload = whole(record, ["id", "text", "title", "metadata", "age"])
        passage = to_passage(payload)
        if matches(condition, passage.metadata):
            found.append((age_of(payload), passage.id))
    return [id_ for _, id_ in sorted(found)]


def _bytes(passage: Passage) -> int:
    # The id, the title and the metadata are there besides; elements of a list have tokens of 32 letters.
    metadata = metadata_json(passage.metadata)
    return len(passage.id + passage.title + passage.text) * 4 + len(metadata) * 16 + 1000


def _scroll(
    client: QdrantClient, *, collection: str, scroll_filter: models.Filter | None, vectors: bool, offset: Any
) -> tuple[list[models.Record], Any]:
    return client.scroll(
        collection,
        scroll_filter=scroll_filter,
        limit=POINTS_AT_ONCE,
        offset=offset,
        with_payload=True,
        with_vectors=vectors,
    )
