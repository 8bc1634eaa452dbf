"""The command line: results on stdout, one line of error on stderr, exit status 2 for misuse and 1 for failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rag_infer.cli.main import main


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    try:
        status = main(words)
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("ask", "", "--bundle", "none", "--kb", "none"), 2, "the question is empty"),
        (("ask", "Who?", "--bundle", "none", "--kb", "none"), 1, "no bundle at none"),
        (
            ("ask", "Who?", "--bundle", "none", "--kb", "none", "--threads", "0"),
            2,
            "threads must be at least 1",
        ),
        (("search", "none", "Who?", "extra", "--bundle", "none"), 2, "one question"),
        (("eval", "none.jsonl"), 1, "none.jsonl cannot be read"),
        (("eval", "none.jsonl", "--limit", "0"), 2, "--limit must be at least 1"),
        (("search", "Who?", "--mode", "bm25"), 2, "mode must be one of dense, lexical, hybrid, got 'bm25'"),
        (
            ("ask", "Who?", "--alpha", "0.5"),
            2,
            "--alpha goes with --mode hybrid or, where there are images, with --fusion; got --mode dense",
        ),
        (("ask", "Who?", "--mode", "hybrid", "--alpha", "2"), 2, "alpha must be from 0 to 1, got 2.0"),
        (("ask", "Who?", "--bundle", "none", "--kb", "none", "--where", "topic"), 2, "FIELD=VALUE"),
        ((), 2, "required"),
        (("fly",), 2, "invalid choice"),
    ],
)
def test_errors(
    words: tuple[str, ...],
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    got, out, err = run(*words, capsys=capsys)
    assert got == status
    assert message in err
    assert out == ""
    assert "Traceback" not in err
    if not err.startswith("usage:"):
        assert err.count("\n") == 1


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run("ask", "Who?", "--bundle", "none", "--kb", "none", "--debug", capsys=capsys)
    assert status == 1
    assert "Traceback" in err


def test_without_demo_the_error_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAG_INFER_CACHE", str(tmp_path))
    status, _, err = run("ask", "Who?", capsys=capsys)
    assert status == 1
    assert "run 'make demo'" in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from rag_infer import __version__

    assert run("--version", capsys=capsys)[1].strip() == f"rag-infer {__version__}"


def test_doctor(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, _ = run("doctor", "--json", capsys=capsys)
    facts = json.loads(out)
    assert status == (1 if facts["problems"] else 0)
    assert facts["threads"] == len(os.sched_getaffinity(0))
    assert facts["kernels"].split()[0] in ("avx512", "avx2", "neon", "scalar")
    status, out, _ = run("doctor", "--bundle", str(tmp_path / "none"), "--kb", str(tmp_path), capsys=capsys)
    assert status == 1
    assert "problem: bundle: no bundle at" in out
    assert "problem: knowledge base:" in out


@pytest.mark.real_model
def test_ask_search_and_eval(
    demo_bundle: Path, demo_knowledge_base: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    models = ("--bundle", str(demo_bundle), "--kb", str(demo_knowledge_base))
    status, out, _ = run("ask", "What", "is", "the", "highest", "mountain?", *models, "--json", capsys=capsys)
    answer = json.loads(out)
    assert status == 0
    assert answer["question"] == "What is the highest mountain?"
    assert len(answer["tokens"][0]["posterior"]) == len(answer["passages"])

    status, out, _ = run("ask", "What is the highest mountain?", *models, "--explain", capsys=capsys)
    assert "prior" in out
    assert "from:" in out
    assert "\x1b[" not in out

    search = ("search", "highest mountain", "-k", "3", "--where", "topic=Geography", *models, "--json")
    status, out, _ = run(*search, capsys=capsys)
    assert [p["metadata"]["topic"] for p in json.loads(out)["passages"]] == ["Geography"] * 3

    for settings, best in ((("lexical",), "penicillin"), (("hybrid", "--alpha", "0.4"), "penicillin")):
        search = ("search", "Who discovered penicillin?", "-k", "2", "--mode", *settings, *models, "--json")
        status, out, _ = run(*search, capsys=capsys)
        assert best in json.loads(out)["passages"][0]["text"].lower()
    hybrid = ("--mode", "hybrid", "--fusion", "reciprocal_rank")
    status, out, _ = run("ask", "Who discovered penicillin?", *hybrid, *models, "--json", capsys=capsys)
    assert sum(p["prior"] for p in json.loads(out)["passages"]) == pytest.approx(1, abs=1e-5)

    questions = tmp_path / "questions.jsonl"
    questions.write_text(
        '{"text": "What is the highest mountain on Earth?", "answers": ["x"], "passage_id": "Mount Everest"}\n'
    )
    status, out, _ = run("eval", str(questions), *models, "--max-new-tokens", "4", "--json", capsys=capsys)
    result = json.loads(out)
    assert status == 0
    assert result["hits"]["5"] == 1.0
    assert result["exact_match"] == 0.0
    assert set(result["latency_ms"]["total"]) == {"p50", "p90", "p99"}
    status, out, _ = run("eval", str(questions), *models, "--max-new-tokens", "2", capsys=capsys)
    assert "hit@10" in out
    status, out, _ = run("eval", str(questions), *models, *hybrid, "--retrieval-only", capsys=capsys)
    assert "hit@1        1.000" in out
    assert "exact match" not in out


@pytest.mark.real_model
def test_interrupt(demo_bundle: Path, demo_knowledge_base: Path) -> None:
    words = ["ask", "Who is it?", "--max-new-tokens", "2000", "--bundle", str(demo_bundle)]
    command = [sys.executable, "-m", "rag_infer.cli.main", *words, "--kb", str(demo_knowledge_base)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert process.returncode in (130, 0, -signal.SIGINT)
