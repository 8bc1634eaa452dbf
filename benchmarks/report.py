"""Timing two or more ways of doing the same thing side by side, and saying on what machine it was."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.chart import draw
from rag_infer import _kernels
from rag_infer.version import __version__

Array = NDArray[Any]


class BenchmarkError(Exception):
    """Base of all errors that stop a benchmark; the message says what to do, where something can be done."""


class DifferentAnswersError(BenchmarkError):
    """The contenders do not do the same work."""


@dataclass(frozen=True)
class Comparison:
    """One case: the milliseconds of every run, by contender; the first contender is the one to beat.

    Attributes:
        case: what is done.
        milliseconds: by contender.
        anonymous_mb: by contender, where measured, the most private memory that is no file's, in MiB.
        versions: of the libraries that were compared.
    """

    case: str
    milliseconds: Mapping[str, Sequence[float]]
    anonymous_mb: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def median(self, contender: str) -> float:
        """Median milliseconds of a contender."""
        return statistics.median(self.milliseconds[contender])

    def ratio(self, contender: str) -> float:
        """How many times faster a contender is than the first, by medians."""
        return self.median(next(iter(self.milliseconds))) / self.median(contender)


def interleave(
    case: str, contenders: Mapping[str, Callable[[], object]], repeats: int, *, pause_s: float = 0.0
) -> Comparison:
    """Time the contenders in turn, so that whatever else the machine does hits all alike; one round to warm up.

    Args:
        case: what is done.
        contenders: the one to beat first.
        repeats: timed runs of each.
        pause_s: rest before each run. The threads of a BLAS go on spinning for tens of milliseconds after a product
            and would take a processor from whoever runs next.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, run in contenders.items():
            time.sleep(pause_s)
            start = time.perf_counter()
            run()
            if turn:
                milliseconds[name].append((time.perf_counter() - start) * 1e3)
    return Comparison(case, milliseconds)


def check_close(what: str, found: Array, expected: Array, *, tolerance: float = 0.0) -> None:
    """Raise `DifferentAnswersError` unless two arrays have one shape and are equal within an absolute tolerance."""
    if found.shape != expected.shape:
        raise DifferentAnswersError(f"{what}: shape {found.shape}, expected {expected.shape}")
    wrong = ~np.isclose(found, expected, rtol=0, atol=tolerance)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DifferentAnswersError(
            f"{what}: {wrong.sum()} of {wrong.size} differ by more than {tolerance}, "
            f"the first at {where}: {found[where]}, expected {expected[where]}"
        )


def print_report(
    benchmark: str,
    comparisons: Sequence[Comparison],
    *,
    seed: int,
    threads: int,
    figures: Mapping[str, float] | None = None,
    chart: Path | None = None,
) -> None:
    """A table for people, then one line of JSON; and a chart.

    Args:
        benchmark: its name.
        comparisons: the cases.
        seed: of what was drawn at random.
        threads: of each contender.
        figures: what follows from the cases, by name.
        chart: where the chart goes, or None.
    """
    width = max(len(comparison.case) for comparison in comparisons)
    names = max(len(name) for comparison in comparisons for name in comparison.milliseconds)
    print(f"{'case':<{width}}  {'contender':<{names}} {'median ms':>10} {'best ms':>10} {'times faster':>13}")
    for comparison in comparisons:
        for name, runs in comparison.milliseconds.items():
            milliseconds = f"{comparison.median(name):>10.3f} {min(runs):>10.3f}"
            ratio = comparison.ratio(name)
            print(f"{comparison.case:<{width}}  {name:<{names}} {milliseconds} {ratio:>13.2f}")
    for figure, value in (figures or {}).items():
        print(f"{figure}: {value:.2f}")
    about = machine()
    for comparison in comparisons:
        about["versions"] |= comparison.versions
    cases = [_result(comparison) for comparison in comparisons]
    if chart is not None:
        draw(cases, chart)
    results = cases + ([dict(figures)] if figures else [])
    print(json.dumps({"benchmark": benchmark, "results": results, "seed": seed, "threads": threads, **about}))


def _result(comparison: Comparison) -> dict[str, Any]:
    contenders: dict[str, dict[str, float]] = {
        name: {
            "median_ms": round(comparison.median(name), 4),
            "best_ms": round(min(runs), 4),
            "times_faster": round(comparison.ratio(name), 3),
        }
        for name, runs in comparison.milliseconds.items()
    }
    for name, megabytes in comparison.anonymous_mb.items():
        contenders[name]["anonymous_mb"] = megabytes
    return {"case": comparison.case, "contenders": contenders}


def machine() -> dict[str, Any]:
    """Versions, processor, instruction level and commit."""
    return {
        "versions": {"rag_infer": __version__, "numpy": np.__version__, "python": platform.python_version()},
        "cpu": _processor(),
        "instruction_level": _kernels.instruction_level(),
        "commit": _commit(),
    }


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit that is measured, with "-dirty" where something is not committed; earlier records do not count."""
    recorded = (":!benchmarks/results", ":!benchmarks/README.md", ":!benchmarks/large-knowledge-bases.md")
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", *recorded)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit


def _git(*words: str) -> str:
    root = Path(__file__).parent.parent
    return subprocess.run(
        ["git", *words], cwd=root, capture_output=True, text=True, check=True
    ).stdout.strip()
