"""The engine that an address names. Drivers are imported here, when they are needed."""

from __future__ import annotations

from pathlib import Path

from rag_infer.errors import EncoderMismatchError, KnowledgeBaseError
from rag_infer.knowledge import folder
from rag_infer.knowledge.backends.address import POSTGRESQL, Address, is_address, parse_address
from rag_infer.knowledge.backends.protocol import BackendSettings, SearchBackend
from rag_infer.knowledge.encoders import Encoders


def open_backend(address: Address, *, writer_timeout: float) -> SearchBackend:
    """Connect to a knowledge base.

    Raises:
        KnowledgeBaseError: there is none, it is of a newer format, the server cannot be reached, or the driver is not
            installed.
    """
    if address.kind == POSTGRESQL:
        _need("psycopg", "postgres", address)
        from rag_infer.knowledge.backends.pgvector import PgvectorBackend

        return PgvectorBackend.open(address, writer_timeout=writer_timeout)
    _need("qdrant_client", "qdrant", address)
    from rag_infer.knowledge.backends.qdrant import QdrantBackend

    return QdrantBackend.open(address)


def create_backend(address: Address, settings: BackendSettings, *, writer_timeout: float) -> SearchBackend:
    """Make an empty knowledge base and connect to it.

    Raises:
        KnowledgeBaseError: there is one already; or as `open_backend`.
    """
    if address.kind == POSTGRESQL:
        _need("psycopg", "postgres", address)
        from rag_infer.knowledge.backends.pgvector import PgvectorBackend

        return PgvectorBackend.create(address, settings, writer_timeout=writer_timeout)
    _need("qdrant_client", "qdrant", address)
    from rag_infer.knowledge.backends.qdrant import QdrantBackend

    return QdrantBackend.create(address, settings)


def exists(place: str | Path) -> bool:
    """Whether there is a knowledge base in a folder or at an address.

    Raises:
        KnowledgeBaseError: as `open_backend`.
    """
    if not is_address(place):
        return folder.exists(Path(place))
    address = parse_address(str(place))
    if address.kind == POSTGRESQL:
        _need("psycopg", "postgres", address)
        from rag_infer.knowledge.backends.pgvector import PgvectorBackend

        return PgvectorBackend.exists(address)
    _need("qdrant_client", "qdrant", address)
    from rag_infer.knowledge.backends.qdrant import QdrantBackend

    return QdrantBackend.exists(address)


def check_encoder(backend: SearchBackend, encoders: Encoders) -> None:
    """Refuse an encoder other than the one a knowledge base was made with.

    Raises:
        EncoderMismatchError: the message names both.
    """
    settings = backend.settings
    if encoders.fingerprint != settings.encoder:
        raise EncoderMismatchError(
            f"{backend.place} was made with the encoder {settings.encoder}, the one given is {encoders.fingerprint}: "
            "use the bundle it was made with, or build it anew"
        )
    if (encoders.dim, encoders.similarity) != (settings.dim, settings.similarity):
        raise EncoderMismatchError(
            f"{backend.place} was made for {settings.similarity} over {settings.dim} dimensions, "
            f"the encoder given is for {encoders.similarity} over {encoders.dim}"
        )


def _need(module: str, extra: str, address: Address) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise KnowledgeBaseError(
            f"{address.shown} needs the package {module} (pip install 'rag_infer[{extra}]')"
        )
