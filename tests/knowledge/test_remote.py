"""A remote knowledge base inherits nothing that reads files, and needs its drivers only when it is opened."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge import KnowledgeBase
from rag_infer.knowledge.remote import RemoteKnowledgeBase

# These call methods that are its own: a context manager `close`, the searches `search_questions`, `search_revision`.
SHARED = {"encode_queries", "__enter__", "__exit__", "search", "search_vectors"}


def test_every_method_is_its_own() -> None:
    members = {name: member for part in KnowledgeBase.__mro__[:-1] for name, member in vars(part).items()}
    for name, member in members.items():
        callable_ = inspect.isroutine(member) or isinstance(member, property)
        if callable_ and (not name.startswith("_") or name in ("__len__", "__init__")) and name not in SHARED:
            assert name in vars(RemoteKnowledgeBase), f"{name} would open files that are not there"


@pytest.mark.parametrize(
    ("module", "address", "extra"),
    [("psycopg", "postgresql://h/db", "postgres"), ("qdrant_client", "qdrant://h/docs", "qdrant")],
)
def test_a_missing_driver_is_named(
    module: str, address: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        KnowledgeBaseError, match=rf"needs the package {module} \(pip install 'rag_infer\[{extra}\]'\)"
    ):
        KnowledgeBase.open(address)


def test_folders_load_no_driver() -> None:
    code = (
        "import sys, rag_infer.knowledge.remote, rag_infer.engine\n"
        "print({'psycopg', 'qdrant_client'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
