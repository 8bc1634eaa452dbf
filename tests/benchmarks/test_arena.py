"""The arena, the suite and its records, with contenders that run everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import bench_encode, bench_rag, suite, table
from benchmarks.arena import Contender, contest
from benchmarks.report import Comparison, DifferentAnswersError
from rag_infer.cli.main import main
from tests.seq2seq_checkpoints import write_seq2seq


@pytest.fixture
def contenders(tmp_path: Path) -> list[Contender]:
    """Transformers and rag_infer on a tiny BART."""
    from rag_infer.export import export_bundle

    write_seq2seq(tmp_path / "checkpoint", "bart")
    export_bundle(tmp_path / "bundle", generator=tmp_path / "checkpoint")
    bench_rag.write_inputs(tmp_path / "inputs.npz", n_docs=3, tokens=9, seed=1, vocabulary=96)
    given = {
        "inputs": str(tmp_path / "inputs.npz"),
        "threads": 1,
        "generation": {"strategy": "rag-token", "num_beams": 2, "min_length": 6, "max_length": 6},
    }
    return [
        Contender("theirs", "rag_transformers", {**given, "checkpoint": str(tmp_path / "checkpoint")}),
        Contender("ours", "rag_infer_generator", {**given, "bundle": str(tmp_path / "bundle")}),
    ]


@pytest.mark.slow
def test_contenders_run_apart_and_give_the_same_tokens(contenders: list[Contender]) -> None:
    comparison, answers = contest("tiny", contenders, 2)
    bench_rag.check(answers, "ours", "theirs")
    assert {name: len(times) for name, times in comparison.milliseconds.items()} == {"theirs": 2, "ours": 2}
    assert min(comparison.anonymous_mb.values()) > 10
    assert {"transformers", "torch", "rag_infer"} <= set(comparison.versions)
    answers["ours"]["tokens"][0][2] += 1
    with pytest.raises(DifferentAnswersError):
        bench_rag.check(answers, "ours", "theirs")


@pytest.mark.parametrize("theirs", [[[0, 5, 2]], [[0, 5, 2], [0]], [[0, 5, 2, 3]]])
def test_tokens_are_the_same_with_their_padding(theirs: list[list[int]]) -> None:
    answers = {"ours": {"tokens": [[0, 5, 2, 1]]}, "theirs": {"tokens": theirs}}
    bench_rag.check(answers, "ours", "ours")
    with pytest.raises(DifferentAnswersError, match=r"ours gave \[\[0, 5, 2, 1\]\], theirs \[\[0, 5, 2"):
        bench_rag.check(answers, "ours", "theirs")


def test_vectors_of_other_passages_are_no_answer() -> None:
    answers = {"one": [[1.0, 0.0]], "two fp32": [[1.0, 0.001]]}
    bench_encode.check(answers)
    with pytest.raises(DifferentAnswersError, match=r"cosine 0\.0000"):
        bench_encode.check({**answers, "three": [[0.0, 1.0]]})


def test_records_and_charts(tmp_path: Path) -> None:
    comparison = Comparison("case", {"numpy": [4.0, 5.0], "rag_infer": [1.0, 2.0]})
    contenders = {n: {"median_ms": comparison.median(n)} for n in comparison.milliseconds}
    result = {"benchmark": "topk", "results": [{"case": "case", "contenders": contenders}], "seed": 0}
    for _ in range(2):
        suite.keep("topk", result, tmp_path)
        chart = (tmp_path / "topk.svg").read_text(encoding="utf-8")
        assert "4.5 ms" in chart or "rag_infer" in chart
    kept = json.loads((tmp_path / "topk.json").read_text(encoding="utf-8"))
    assert kept["command"] == "python -m benchmarks.bench_topk"
    assert kept["results"] == result["results"]


def test_json_is_all_there_is_on_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--json", "marginalise"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["benchmark"] == "marginalise"
    assert captured.out.count("\n") == 1
    assert captured.err.startswith("[marginalise] python -m benchmarks.bench_marginalise\ncase ")
    assert "{" not in captured.err


@pytest.mark.parametrize("debug", [False, True])
def test_json_where_a_script_fails(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, debug: bool
) -> None:
    monkeypatch.setenv("RAG_INFER_CACHE", str(tmp_path))
    assert main(["bench", "start", "--json", *(["--debug"] if debug else [])]) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert f"error: {tmp_path / 'demo' / 'bundle'} is missing: run `make models` first" in lines
    assert lines[-1] == "failed: start"
    assert ("Traceback" in captured.err) == debug


def test_without_json_people_read_stdout(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "SUITE", {"small": ["bench_marginalise", "--quick", "--vocab", "50"]})
    assert suite.main(["small"]) == 0
    captured = capfd.readouterr()
    header, first, *_, last, blank = captured.out.split("\n")[:-1]
    assert header == "[small] python -m benchmarks.bench_marginalise --quick --vocab 50"
    assert first.startswith("case ")
    assert json.loads(last)["benchmark"] == "marginalise"
    assert blank == ""
    assert captured.err == ""


def test_the_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "no-such"]) == 2
    assert "unknown benchmark 'no-such': expected of topk" in capfd.readouterr().err


def test_every_entry_is_a_script() -> None:
    for module, *_ in suite.SUITE.values():
        assert (suite.ROOT / "benchmarks" / f"{module}.py").is_file()
    assert set(suite.DEFAULT) <= set(suite.SUITE)


def test_figures_of_a_row_in_a_table() -> None:
    assert table.figures({"end_mb": 1049.27, "between_mb": [950.6, 1049.2]})[2:] == [
        "| end_mb | 1,049.27 |",
        "| between_mb | 951, 1,049 |",
    ]


def test_the_page_shows_what_is_recorded() -> None:
    page = table.README.read_text(encoding="utf-8")
    assert table.updated(page, table.render(suite.RESULTS)) == page, "run python -m benchmarks.table"
    for path in suite.RESULTS.glob("*.json"):
        assert path.stem in suite.SUITE
        assert f"### {path.stem}" in page
