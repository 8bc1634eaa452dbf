"""PostgreSQL as others run it: users with few rights, servers that stand still, forks, rows that somebody changed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge import KnowledgeBase
from rag_infer.knowledge.backends import pgvector_connection
from tests.knowledge.backends.server import PostgresServer
from tests.knowledge.backends.test_contract import PASSAGES, numbered, vectors_of
from tests.knowledge.backends.test_pgvector import schema
from tests.knowledge.encoders import HashingEncoder


@pytest.fixture
def kb(address: str, encoder: HashingEncoder) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.create(address, encoder=encoder, writer_timeout=0.5) as made:
        yield made


def as_user(address: str, user: str) -> str:
    return address.replace("//postgres:@", f"//{user}@")


def test_a_schema_that_was_made_for_its_user(postgres: PostgresServer, encoder: HashingEncoder) -> None:
    postgres.run("CREATE EXTENSION IF NOT EXISTS vector")
    postgres.run("CREATE ROLE application LOGIN")
    postgres.run("CREATE SCHEMA made_for_it AUTHORIZATION application")
    with KnowledgeBase.create(as_user(postgres.address("made_for_it"), "application"), encoder=encoder) as kb:
        kb.upsert(PASSAGES)
        assert kb.build_index("hnsw")
        assert kb.check().passages == 3


def test_a_user_who_only_reads(kb: KnowledgeBase, postgres: PostgresServer, address: str) -> None:
    kb.upsert(PASSAGES)
    name = schema(address)
    postgres.run("CREATE ROLE only_reads LOGIN")
    postgres.run(f'GRANT USAGE ON SCHEMA "{name}" TO only_reads')
    postgres.run(f'GRANT SELECT ON ALL TABLES IN SCHEMA "{name}" TO only_reads')
    with KnowledgeBase.open(as_user(address, "only_reads"), encoder=HashingEncoder()) as reader:
        assert [p.id for p in reader.search("cat", k=3)] == [p.id for p in kb.search("cat", k=3)]
        assert (reader.info()["passages"], reader.check().passages) == (3, 3)
        for write in (
            lambda: reader.upsert(numbered(1)),
            lambda: reader.delete(["a"]),
            lambda: reader.update_metadata({"a": {"year": 1}}),
            lambda: reader.build_index("hnsw"),
        ):
            with pytest.raises(KnowledgeBaseError, match="permission denied"):
                write()
    assert (len(kb), kb.revision) == (3, 1)


def test_different_ones_made_at_once_in_a_database_without_pgvector(postgres: PostgresServer) -> None:
    postgres.run("CREATE DATABASE bare")
    outcomes: list[str] = []

    def make(number: int) -> None:
        address = postgres.address(f"kb{number}").replace("/postgres?", "/bare?")
        try:
            KnowledgeBase.create(address, encoder=HashingEncoder()).close()
            outcomes.append("made")
        except KnowledgeBaseError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["made"] * 4


def test_a_server_that_stands_still_is_not_waited_for(
    postgres: PostgresServer, kb: KnowledgeBase, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgvector_connection, "GRACE", 0.5)
    monkeypatch.setattr("rag_infer.knowledge.backends.pgvector_pool.GRACE", 0.5)
    kb.upsert(PASSAGES)
    with KnowledgeBase.open(f"{address}&timeout=1", encoder=HashingEncoder()) as other:
        before = other.search("cat")
        backends = postgres.run("SELECT pid FROM pg_stat_activity WHERE application_name = 'rag_infer'")
        for (process,) in backends:
            os.kill(process, signal.SIGSTOP)
        started = time.monotonic()
        try:
            with pytest.raises(KnowledgeBaseError, match=r"has not answered for 1\.5 s"):
                other.search("cat")
        finally:
            for (process,) in backends:
                os.kill(process, signal.SIGCONT)
        assert time.monotonic() - started < 10
        assert other.search("cat") == before


def test_a_fork_has_connections_of_its_own(kb: KnowledgeBase) -> None:
    vectors = vectors_of(40)
    kb.upsert(numbered(40), vectors)
    expected = [kb.search_vectors(vectors[i : i + 1], 3)[0][0].id for i in range(40)]
    child = os.fork()
    if child == 0:
        found: list[str] = []
        try:
            for _ in range(4):
                found = [kb.search_vectors(vectors[i : i + 1], 3)[0][0].id for i in range(39, -1, -1)]
        finally:
            os._exit(0 if found[::-1] == expected else 1)
    for _ in range(4):
        assert [kb.search_vectors(vectors[i : i + 1], 3)[0][0].id for i in range(40)] == expected
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [kb.search_vectors(vectors[i : i + 1], 3)[0][0].id for i in range(40)] == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("fields = '{}'", "what conditions see of passage 'b' is not its metadata"),
        ("key = '\\x00'", "passage 'b' has the key of another one"),
        ("age = 99", "passage 'b' has a vector or an age beyond"),
    ],
)
def test_what_searches_go_by_is_checked_too(
    kb: KnowledgeBase, postgres: PostgresServer, address: str, change: str, message: str
) -> None:
    kb.upsert(PASSAGES)
    postgres.run(f"UPDATE \"{schema(address)}\".passages SET {change} WHERE id = 'b'")
    with pytest.raises(CorruptIndexError, match=message):
        kb.check()


def test_a_row_that_is_no_passage(kb: KnowledgeBase, postgres: PostgresServer, address: str) -> None:
    kb.upsert(PASSAGES)
    postgres.run(f"UPDATE \"{schema(address)}\".passages SET metadata = '{{' WHERE id = 'b'")
    for work in (
        lambda: kb.get(["b"]),
        lambda: kb.search("cat", k=3),
        lambda: kb.update_metadata({"b": {"year": 1}}),
    ):
        with pytest.raises(CorruptIndexError, match="the row of passage 'b' is not as it was written"):
            work()


def test_what_a_renewal_that_was_cut_off_has_left_is_dropped(
    kb: KnowledgeBase, postgres: PostgresServer, address: str
) -> None:
    name = schema(address)
    kb.upsert(numbered(50), vectors_of(50))
    kb.build_index("hnsw")
    postgres.run(
        f'CREATE INDEX passages_hnsw_ccnew ON "{name}".passages USING hnsw (embedding vector_ip_ops)'
    )
    index = f'"{name}".passages_hnsw_ccnew'
    postgres.run(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index}'::regclass")
    kb.compact()
    left = postgres.run("SELECT indexname FROM pg_indexes WHERE schemaname = %s", [name])
    assert {found for (found,) in left if "hnsw" in found} == {"passages_hnsw"}
    assert kb.info()["search"] == "hnsw"


def test_a_kind_that_is_refused_changes_nothing(postgres: PostgresServer) -> None:
    with KnowledgeBase.create(postgres.address(), encoder=HashingEncoder(dim=2100)) as kb:
        with pytest.raises(KnowledgeBaseError, match="up to 2,000 dimensions"):
            kb.build_index("hnsw")
        assert kb.info()["index"] == "auto"
        kb.compact()
