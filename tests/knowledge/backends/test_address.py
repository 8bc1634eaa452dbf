"""Addresses: what is one, what is in it, and that nothing secret is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_infer.knowledge import KnowledgeBase
from rag_infer.knowledge.backends import is_address, parse_address
from rag_infer.knowledge.backends.address import knowledge_base_place
from tests.knowledge.encoders import HashingEncoder


@pytest.mark.parametrize(
    ("text", "kind", "name", "shown"),
    [
        ("postgresql://h/db", "postgresql", "rag_infer", "postgresql://h/db?knowledge_base=rag_infer"),
        (
            "postgres://me:pass%2Fword@h1:1,h2:2/db?knowledge_base=docs&sslmode=require&ef_search=7",
            "postgresql",
            "docs",
            "postgresql://me@h1:1,h2:2/db?sslmode=require&knowledge_base=docs",
        ),
        (
            "postgresql:///db?host=/run/pg&user=me&password=pass&timeout=5",
            "postgresql",
            "rag_infer",
            "postgresql:///db?host=/run/pg&user=me&knowledge_base=rag_infer",
        ),
        ("qdrant://localhost/docs", "qdrant", "docs", "qdrant://localhost:6333/docs"),
        ("qdrant://[::1]:7000/docs", "qdrant", "docs", "qdrant://[::1]:7000/docs"),
        ("qdrant+https://:pass@h/docs", "qdrant+https", "docs", "qdrant+https://h:6333/docs"),
        ("qdrant+file:///some/folder/docs", "qdrant+file", "docs", "qdrant+file:///some/folder/docs"),
    ],
)
def test_what_is_read_and_shown(text: str, kind: str, name: str, shown: str) -> None:
    address = parse_address(text)
    assert is_address(text)
    assert (address.kind, address.name, address.shown) == (kind, name, shown)
    assert "pass" not in repr(address)


def test_options_are_taken_out_of_what_the_driver_gets() -> None:
    address = parse_address("postgresql://u:p@h/db?ef_search=7&connect_timeout=3&timeout=5&knowledge_base=x")
    assert address.target == "postgresql://u:p@h/db?connect_timeout=3"
    assert (address.ef_search, address.timeout) == (7, 5.0)
    assert parse_address("qdrant+https://:key%21@h/docs").secret == "key!"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mysql://secret@h/db", "'mysql' is not known"),
        ("postgresql://h/db?knowledge_base=Docs", "got 'Docs'"),
        ("postgresql://h/db?knowledge_base=pg_x", "got 'pg_x'"),
        ("postgresql://h/db?ef_search=none", "ef_search must be a whole number from 1 to 1,000, got 'none'"),
        ("postgresql://me:se/cret@h/db", "write it as %2F"),
        ("qdrant://h:6333", "ends with a collection"),
        ("qdrant://h:x/docs", "cannot be read"),
        ("qdrant:///docs", "names a host"),
        ("qdrant://h/docs?knowledge_base=x", "no option knowledge_base"),
        ("qdrant+file:///docs", "FOLDER/COLLECTION"),
        # A password cut in two by what should have been written otherwise: neither part is shown.
        ("postgresql://me:se?cret@h/db", "a password's '\\?' as %3F"),
        ("postgresql://me:secret?x@h/db", "a password's '\\?' as %3F"),
        ("postgresql://me:se@cr?et@h/db", "a password's '\\?' as %3F"),
        ("postgresql://me:secret", "HOST:PORT is expected"),
        ("qdrant://:se?cret@h/docs", "a password's '\\?' as %3F"),
        ("qdrant://u:1/secret@h", "write it as %2F"),
        ("postgresql://h/db?knowledge_base=information_schema", "none of PostgreSQL's own"),
        ("postgresql://h/\udcff", "lone surrogate"),
        # What would become another path on the server, or another folder.
        ("qdrant://h/docs%3Fwait=true", "has letters, digits"),
        ("qdrant+file:///folder/..", "has letters, digits"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        KnowledgeBase.open(text)
    assert "cret" not in str(raised.value)


def test_folders_are_no_addresses() -> None:
    assert not is_address("kb/")
    assert not is_address(Path("kb"))
    assert not is_address("C:\\kb")
    assert knowledge_base_place("kb/") == Path("kb")
    assert knowledge_base_place("qdrant://h/docs") == "qdrant://h/docs"
    with pytest.raises(TypeError, match="must be a string"):
        KnowledgeBase.create(Path("postgresql://h/db"), encoder=HashingEncoder())
