"""Settings and state of a knowledge base in Qdrant: the one point of a small collection beside that of the passages."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from qdrant_client import QdrantClient, models

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge.backends.protocol import BackendSettings
from rag_infer.knowledge.backends.qdrant_payload import KEYWORDS
from rag_infer.knowledge.backends.qdrant_server import Server

SUFFIX = "__rag_infer"
POINT = 1


@dataclass(frozen=True)
class State:
    """What changes with every call that changes passages.

    Attributes:
        revision: number of the last such call.
        rows: how many passages have ever been written.
        longest: no stored vector is longer than this.
        kind: "auto", "exact" or "hnsw".
    """

    revision: int
    rows: int
    longest: float
    kind: str


def exists(server: Server) -> bool:
    """Whether there is a knowledge base."""
    return bool(_state_points(server))


def create(server: Server, settings: BackendSettings) -> None:
    """Make the two collections.

    Raises:
        KnowledgeBaseError: there is one of this name.
    """
    name = server.address.name
    size = models.VectorParams(size=settings.dim, distance=models.Distance.DOT, on_disk=True)
    if server.read(lambda client: client.collection_exists(name)):
        _demand_unfinished(server, size)
    else:
        server.read(lambda client: client.create_collection(name, vectors_config=size))
    if not server.local:  # which looks at every point anyway, and warns
        for keyword in KEYWORDS:
            server.read(partial(_index_keyword, collection=name, keyword=keyword))
    beside = models.VectorParams(size=1, distance=models.Distance.DOT)
    if not server.read(lambda client: client.collection_exists(name + SUFFIX)):
        server.read(lambda client: client.create_collection(name + SUFFIX, vectors_config=beside))
    # This point is what makes it a knowledge base.
    write(server, State(0, 0, 0.0, settings.index), settings)


def read(server: Server) -> tuple[State, BackendSettings]:
    """The state and the settings.

    Raises:
        KnowledgeBaseError: there is no knowledge base, or it is of a newer format.
        CorruptIndexError: they are not what they should be.
    """
    found = _state_points(server)
    if not found or found[0].payload is None:
        raise KnowledgeBaseError(
            f"no knowledge base at {server.address.shown} (make one with 'rag-infer index build')"
        )
    payload: dict[str, Any] = found[0].payload
    # The settings first: of a newer format the state may be another.
    settings = BackendSettings.from_json(str(payload.get("settings")), server.address.shown)
    try:
        state = State(**payload["state"])
    except (KeyError, TypeError):
        raise CorruptIndexError(f"{server.address.shown} has a state that cannot be read") from None
    return state, BackendSettings(**{**vars(settings), "index": state.kind})


def write(server: Server, state: State, settings: BackendSettings) -> None:
    """Replace the state."""
    payload = {"state": asdict(state), "settings": settings.to_json()}
    point = models.PointStruct(id=POINT, vector=[0.0], payload=payload)
    server.read(lambda client: client.upsert(server.address.name + SUFFIX, [point], wait=True))


def _state_points(server: Server) -> list[models.Record]:
    name = server.address.name + SUFFIX

    def ask(client: QdrantClient) -> list[models.Record]:
        return client.retrieve(name, [POINT]) if client.collection_exists(name) else []

    return server.read(ask)


def _demand_unfinished(server: Server, wanted: models.VectorParams) -> None:
    """Refuse a collection that is more than what a creation that was cut off has left.

    Raises:
        KnowledgeBaseError: it is a knowledge base, or somebody else's.
    """
    name = server.address.name
    found = server.read(lambda client: client.get_collection(name)).config.params.vectors
    same = isinstance(found, models.VectorParams) and (found.size, found.distance) == (
        wanted.size,
        wanted.distance,
    )
    if exists(server) or not same or server.read(lambda client: client.count(name, exact=True)).count:
        raise KnowledgeBaseError(
            f"there is a collection at {server.address.shown}: open it, or choose another name"
        )


def _index_keyword(client: QdrantClient, *, collection: str, keyword: str) -> None:
    client.create_payload_index(collection, keyword, models.PayloadSchemaType.KEYWORD)
