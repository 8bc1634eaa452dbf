"""The decoding benchmark: what it compares, and the rate it derives."""

from __future__ import annotations

import json

import pytest

from benchmarks import bench_decode
from benchmarks.report import Comparison, DifferentAnswersError, print_report

FIRST = Comparison("1 out", {"llama.cpp F32": [100.0, 300.0, 200.0], "rag_infer fp32": [100.0] * 3})
WHOLE = Comparison("5 out", {"llama.cpp F32": [600.0, 700.0, 500.0], "rag_infer fp32": [300.0] * 3})


def test_steps_per_second_leave_out_the_first_token() -> None:
    rates = bench_decode.steps_per_second(FIRST, WHOLE, 5)
    assert rates == {"llama.cpp F32": 10.0, "rag_infer fp32": 20.0}
    assert bench_decode.steps_per_second(WHOLE, FIRST, 5) == {}


def test_other_tokens_are_no_answer() -> None:
    same = {name: {"rows": [[5, 6], [7, 8]]} for name in bench_decode.EXACT}
    bench_decode.check({**same, "llama.cpp Q8_0": {"rows": [[5, 6], [7, 9]]}})
    bench_decode.check({"rag_infer fp32": same["rag_infer fp32"]})
    with pytest.raises(DifferentAnswersError, match=r"llama\.cpp F32 gave None, rag_infer fp32 \[\[5, 6\]"):
        bench_decode.check({**same, "llama.cpp F32": {"rows": None}})


def test_a_rate_needs_two_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_decode.main(["--tokens", "1"])
    assert "argument --tokens: a rate needs at least 2" in capsys.readouterr().err


def test_figures_are_in_table_and_record(capsys: pytest.CaptureFixture[str]) -> None:
    print_report("decode", [FIRST, WHOLE], seed=0, threads=1, figures={"rate": 20.0})
    *table, last = capsys.readouterr().out.splitlines()
    assert table[-1] == "rate: 20.00"
    assert json.loads(last)["results"][2] == {"rate": 20.0}
