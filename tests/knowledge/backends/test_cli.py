"""The command line with addresses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rag_infer.cli.main import main
from rag_infer.knowledge.backends import pgvector_pool, qdrant_server
from tests.knowledge.backends.server import PostgresServer
from tests.knowledge.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    lines = [
        {"_id": f"p{i}", "text": f"the {'cat' if i % 2 else 'dog'} sat", "third": i % 3} for i in range(30)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def address(remote_kind: str, place: Callable[[str], str]) -> str:
    return place(remote_kind)


def test_every_verb_takes_an_address(
    address: str, bundle: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    built = run("index", "build", address, corpus, "--bundle", bundle)
    assert "30 passages (30 added, 0 replaced, 0 unchanged)" in built
    assert built.startswith(address.partition(":")[0])
    assert "(0 added, 0 replaced, 30 unchanged)" in run("index", "build", address, corpus, "--bundle", bundle)
    assert "(0 added, 0 replaced, 30 unchanged)" in run("index", "add", address, corpus, "--bundle", bundle)
    assert json.loads(run("index", "delete", address, "p1", "nobody", "--json")) == {
        "deleted": ["p1"],
        "unknown": ["nobody"],
        "passages": 29,
    }
    info = json.loads(run("index", "info", address, "--json"))
    assert (info["passages"], info["revision"], info["dim"]) == (29, 2, 24)
    assert "29 passages" in run("index", "check", address)
    assert "bytes, now" in run("index", "compact", address)
    assert "passages          29" in run("index", "info", address)
    where = ("--where", "third=0", "--bundle", bundle, "--json", "-k", 4)
    for words in ((address, "cat"), ("cat", "--kb", address)):
        found = json.loads(run("search", *words, *where))["passages"]
        assert [p["id"] for p in found] == ["p3", "p9", "p15", "p21"]
    main(["doctor", "--kb", address, "--json"])  # its status is about all of this machine
    assert json.loads(capsys.readouterr().out)["knowledge base"]["passages"] == 29


def test_a_server_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgvector_pool, "PAUSE", 0.01)
    monkeypatch.setattr(qdrant_server, "PAUSE", 0.01)
    for address, status, message in (
        ("postgresql://me:top-secret@localhost:1/db?connect_timeout=1", 1, "postgresql://me@localhost:1/db"),
        ("qdrant://localhost:1/docs", 1, "does not answer"),
        ("mysql://top-secret@localhost/db", 2, "'mysql' is not known"),
        (f"qdrant+file://{tmp_path}/docs", 1, "no knowledge base at qdrant+file://"),
    ):
        assert main(["index", "info", address]) == status
        shown = capsys.readouterr()
        assert (shown.out, shown.err.count("\n")) == ("", 1)
        assert message in shown.err
        assert "top-secret" not in shown.err


@pytest.mark.parametrize(
    ("address", "options", "named"),
    [
        ("postgresql://localhost:1/db", ["--scan", "int8"], "--scan"),
        ("postgresql://localhost:1/db", ["--deduplicate"], "--deduplicate"),
        ("qdrant://localhost:1/docs", ["--min-recall", "0.9"], "--min-recall"),
    ],
)
def test_what_an_address_does_not_take_is_refused_before_anything_is_encoded(
    address: str, options: list[str], named: str, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", "build", address, str(corpus), *options]) == 2
    assert f"{named} not taken at this address" in capsys.readouterr().err


@pytest.mark.real_model
def test_asking_and_evaluating_at_an_address(
    demo_bundle: Path, postgres: PostgresServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = postgres.address()
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "n", "title": "Nile", "text": "The Nile is the longest river of Africa."}\n')
    questions = tmp_path / "questions.jsonl"
    questions.write_text(
        '{"text": "Which is the longest river of Africa?", "answers": ["Nile"], "passage_id": "n"}\n'
    )
    options = ["--bundle", str(demo_bundle), "--kb", address, "--json"]
    assert main(["index", "build", address, str(corpus), "--bundle", str(demo_bundle)]) == 0
    capsys.readouterr()
    assert main(["ask", "Which is the longest river of Africa?", *options, "--max-new-tokens", "4"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert ([p["id"] for p in answer["passages"]], answer["revision"]) == (["n"], 1)
    assert main(["eval", str(questions), *options, "--max-new-tokens", "4"]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == 1
