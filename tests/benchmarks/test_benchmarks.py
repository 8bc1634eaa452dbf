"""The kernel benchmarks run, check their answers, and end with a line of JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import bench_hnsw, bench_marginalise, bench_topk
from benchmarks.report import Comparison, DifferentAnswersError, interleave


@pytest.mark.parametrize(
    "benchmark", [bench_topk, bench_hnsw, bench_marginalise], ids=["topk", "hnsw", "marginalise"]
)
def test_quick_runs_end_with_a_record(benchmark, capsys):
    assert benchmark.main(["--quick", "--seed", "3", "--threads", "1"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    record = json.loads(last)
    assert record["seed"] == 3
    assert record["threads"] == 1
    assert {"versions", "cpu", "instruction_level", "commit", "benchmark"} <= set(record)
    for result in (r for r in record["results"] if "case" in r):
        assert any(line.startswith(result["case"]) for line in table)
        for contender in result["contenders"].values():
            assert contender["median_ms"] >= contender["best_ms"] > 0


def test_the_ratio_is_against_the_first_contender():
    comparison = Comparison("case", {"slow": [4.0, 6.0, 5.0], "fast": [1.0, 2.0, 9.0]})
    assert comparison.ratio("fast") == 2.5
    assert comparison.ratio("slow") == 1.0


def test_contenders_take_turns():
    calls: list[str] = []
    comparison = interleave("case", {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert {name: len(runs) for name, runs in comparison.milliseconds.items()} == {"a": 2, "b": 2}


def test_a_wrong_answer_stops_the_benchmark(monkeypatch):
    random = np.random.default_rng(0)
    logits = random.standard_normal((2, 1, 50), dtype=np.float32)
    priors = np.log(np.array([0.5, 0.5], dtype=np.float32))
    bench_marginalise.check(logits, priors, 3)
    monkeypatch.setattr(bench_marginalise, "numpy_log_probs", lambda logits, priors: logits[0])
    with pytest.raises(DifferentAnswersError, match="marginalise_log_probs"):
        bench_marginalise.check(logits, priors, 3)
