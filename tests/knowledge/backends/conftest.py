"""Fixtures of the backends' tests: a PostgreSQL server, and addresses of each kind of knowledge base."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rag_infer.knowledge import KnowledgeBase
from tests.knowledge.backends.server import PostgresServer
from tests.knowledge.encoders import HashingEncoder

KINDS = ("folder", "postgresql", "qdrant")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def address(postgres: PostgresServer) -> str:
    """Where there is no knowledge base yet, on the server."""
    return postgres.address()


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Makes a place where there is no knowledge base yet, of a kind."""

    def make(kind: str) -> str:
        if kind == "postgresql":
            server: PostgresServer = request.getfixturevalue("postgres")
            return server.address()
        if kind == "qdrant":
            return f"qdrant+file://{tmp_path}/qdrant/passages"
        return str(tmp_path / uuid.uuid4().hex)

    return make


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=KINDS[1:])
def remote_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def encoder() -> HashingEncoder:
    return HashingEncoder()


@pytest.fixture
def kb(kind: str, place: Callable[[str], str], encoder: HashingEncoder) -> Iterator[KnowledgeBase]:
    """An empty knowledge base of each kind."""
    with KnowledgeBase.create(place(kind), encoder=encoder, threads=1) as made:
        yield made
