"""Sizes that make no sense are refused before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import (
    bench_causal,
    bench_decode,
    bench_encode,
    bench_flat,
    bench_hnsw,
    bench_images,
    bench_marginalise,
    bench_norms,
    bench_rag,
    bench_start,
    bench_topk,
)
from benchmarks.options import timing_parser
from benchmarks.report import BenchmarkError
from rag_infer.session import available_threads

SCRIPTS = {
    "causal": (bench_causal, ("--n-docs", "--context", "--question", "--tokens")),
    "decode": (bench_decode, ("--n-docs", "--context", "--tokens")),
    "encode": (bench_encode, ("--passages",)),
    "flat": (bench_flat, ("--rows", "--dim", "--queries", "-k")),
    "hnsw": (bench_hnsw, ("--rows", "--dim", "--queries", "-k")),
    "marginalise": (bench_marginalise, ("--docs", "--beams", "--vocab", "-k")),
    "rag": (bench_rag, ("--n-docs", "--context", "--beams", "--tokens")),
    "norms": (bench_norms, ("--rows", "--width")),
    "start": (bench_start, ()),
    "topk": (bench_topk, ("--rows", "--dim", "--queries", "-k")),
}
SIZES = [
    (name, option)
    for name, (_, options) in SCRIPTS.items()
    for option in ("--threads", "--repeats", *options)
]


def refusal(capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> str:
    """The last line a script writes where it refuses its arguments."""
    with pytest.raises(SystemExit) as refused:
        SCRIPTS[name][0].main(arguments)
    assert refused.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1].partition(": error: ")[2]


@pytest.mark.parametrize("value", ["0", "-3", "1.5", "many"])
@pytest.mark.parametrize(("name", "option"), SIZES)
def test_sizes_are_positive(capsys: pytest.CaptureFixture[str], name: str, option: str, value: str) -> None:
    last = refusal(capsys, name, f"{option}={value}" if option.startswith("--") else f"{option}{value}")
    assert last == f"argument {option}: '{value}' is not a positive integer"


@pytest.mark.parametrize("value", ["0", "-3", "many"])
def test_questions_about_images_are_some(capsys: pytest.CaptureFixture[str], value: str) -> None:
    with pytest.raises(SystemExit) as refused:
        bench_images.main([f"--questions={value}"])
    assert refused.value.code == 2
    assert f"argument --questions: '{value}' is not a positive integer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, "--seed") for name in SCRIPTS if name != "start"]
    + [("start", "--requests"), ("start", "--passage-cache-mb")],
)
def test_what_may_be_nothing_is_not_less(capsys: pytest.CaptureFixture[str], name: str, option: str) -> None:
    assert refusal(capsys, name, f"{option}=-1") == f"argument {option}: '-1' is not an integer of at least 0"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("flat", ["--rows", "5"], "argument -k: 10 is more than --rows, 5"),
        ("topk", ["--rows", "5"], "argument -k: 10 is more than --rows, 5"),
        ("topk", ["--quick", "-k", "2001"], "argument -k: 2001 is more than --rows, 2000"),
        ("marginalise", ["--vocab", "7"], "argument -k: 8 is more than --vocab, 7"),
        (
            "causal",
            ["--context", "24"],
            "argument --question: 24 leaves no passage in --context, 24",
        ),
    ],
)
def test_sizes_that_contradict_each_other(
    capsys: pytest.CaptureFixture[str], name: str, arguments: list[str], message: str
) -> None:
    assert refusal(capsys, name, *arguments) == message


def test_the_largest_sizes_that_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--threads", "1", "--repeats", "1"]
    assert bench_topk.main([*sizes, "--rows", "3", "-k", "3", "--dim", "8", "--queries", "1"]) == 0
    assert bench_marginalise.main([*sizes, "--vocab", "3", "-k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1])["results"][0]["case"] == "top 3, 4 beams x 5 docs x 3"


def test_defaults() -> None:
    shared = vars(timing_parser("what it asks", repeats=7).parse_args([]))
    assert shared == {"threads": available_threads(), "repeats": 7, "seed": 0, "chart": None, "debug": False}
    assert "seed" not in timing_parser("", repeats=1, threads=3, seed=False).parse_args([])


@pytest.mark.real_model
def test_more_passages_than_there_are(demo_knowledge_base: object) -> None:
    with pytest.raises(BenchmarkError, match=r"--passages 1000000: .* has no more than 10033"):
        bench_encode.passages(1_000_000, 0)


def test_a_script_draws_its_medians(tmp_path: Path) -> None:
    settings = [
        "--vocab",
        "500",
        "--docs",
        "2",
        "--beams",
        "1",
        "-k",
        "3",
        "--threads",
        "1",
        "--repeats",
        "1",
    ]
    assert bench_marginalise.main([*settings, "--chart", str(tmp_path / "medians.svg")]) == 0
    assert "marginalise_topk" in (tmp_path / "medians.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["medians.png", "none/medians.svg"])
def test_a_chart_that_cannot_be(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench_marginalise.main(["--chart", str(tmp_path / name)])
    assert stopped.value.code == 2
    assert "is not the name of an .svg file in a folder that exists" in capsys.readouterr().err
