"""A large knowledge base from beginning to end: built, opened, searched in every way, written to, compacted.

Every step runs in a process of its own, whose resident memory is measured: what is private (anonymous) and what are
pages of mapped files, which the system may drop. Passages come from `benchmarks.passage_source`; questions are held out
of them. Latencies are of single searches for 10 passages, one after the other, in one process. Recall is the share of
the exact search's 10 ids. Ways of searching that this version does not have are left out with a word.
"""

from __future__ import annotations

import argparse
import inspect
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.knowledge_processes import newcomer_delays, process, writing_while_searching
from benchmarks.options import natural, positive
from benchmarks.passage_source import SHARDS, has_demo
from benchmarks.report import BenchmarkError, DifferentAnswersError, machine
from benchmarks.script import script
from rag_infer import KnowledgeBase
from rag_infer.session import available_threads

LIMIT_MB = 6 * 1024
ALL: dict[str, Any] = {"name": "k10", "k": 10}
FILTERS: tuple[dict[str, Any], ...] = (
    {"name": "where_1_percent", "k": 10, "where": {"shard": 7}},
    {"name": "where_50_percent", "k": 10, "where": {"shard": {"$lt": SHARDS // 2}}},
)
SCANS = ("float16", "int8")
# One passage in so many is deleted before the knowledge base is compacted.
DELETED_EVERY = 100

Figures = dict[str, float]


class Bench:
    """One run: a folder, and what its processes are given."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.given: dict[str, Any] = {
            "folder": str(folder / "kb"),
            "passages": arguments.passages,
            "batch": min(arguments.batch, arguments.passages),
            "dim": arguments.dim,
            "seed": arguments.seed,
            "demo": not arguments.random,
            "threads": arguments.threads,
            "verify": "never",
        }
        self.exact: list[list[str]] = []

    def build(self) -> Figures:
        """A new knowledge base."""
        return process("knowledge_build", self.given)

    def open(self) -> Figures:
        """Opened as by default: verified while it answers."""
        report = process("knowledge_search", {**self.given, "verify": "auto", "cases": []})
        return {f"{name}_ms": report[f"{name}_s"] * 1e3 for name in ("import", "open", "first_answer")}

    def search(self, name: str, cases: Sequence[Mapping[str, Any]], *, threads: int | None = None) -> Figures:
        """Latencies by case, and recall against the first search of all, which is exact."""
        asked = [{"queries": self.arguments.queries, **case} for case in cases]
        given = {**self.given, "cases": asked, "threads": threads or self.arguments.threads}
        report = process("knowledge_search", given)
        figures = {f"{name}_{part}": report[part] for part in ("peak_mb", "anonymous_mb", "mapped_mb")}
        for case, measured in report["cases"].items():
            # The rows that fulfil a filter are looked up by the first search that asks for it.
            told = ("p50_ms", "p99_ms", "first_ms") if "where" in case else ("p50_ms", "p99_ms")
            figures |= {f"{name}_{case}_{p}": measured[p] for p in told}
        found = report["cases"]["k10"]["found"]
        figures[f"{name}_loaded_ms"] = (
            report["loaded_s"] * 1e3
        )  # with what is loaded beside the first searches
        self.exact = self.exact or found
        figures[f"{name}_recall_at_10"] = recall(self.exact, found)
        return figures

    def scan(self, kind: str) -> Figures:
        """The exact search through codes of another kind."""
        made = self._index("exact", {"scan": kind}, "scan*")
        figures = {f"{kind}_{name}": made[name] for name in ("bytes", "peak_mb")} | {
            f"{kind}_build_s": made["s"]
        }
        figures |= self.search(kind, [ALL])
        if figures[f"{kind}_recall_at_10"] < 1:
            raise DifferentAnswersError(
                f"the exact search through {kind} finds other passages than in float32"
            )
        return figures

    def hnsw(self, settings: Mapping[str, Any]) -> Figures:
        """The approximate search."""
        made = self._index("hnsw", settings, "hnsw")
        if not made["indexed"]:
            raise BenchmarkError("no HNSW index was made: its recall is below the least that is asked for")
        figures = {f"hnsw_build_{name}": made[name] for name in ("s", "peak_mb", "anonymous_mb")}
        figures["hnsw_bytes"] = made["bytes"]
        return figures | self.search("hnsw", [ALL])

    def words(self) -> Figures:
        """By words (BM25), and by both, over the HNSW index."""
        cases = [ALL, *({"name": mode, "k": 10, "mode": mode} for mode in ("lexical", "hybrid"))]
        figures = self.search("words", cases)
        return {name: value for name, value in figures.items() if "lexical" in name or "hybrid" in name}

    def drop(self, settings: Mapping[str, Any]) -> None:
        """No index any more."""
        self._index("exact", settings, "hnsw")

    def compact(self) -> Figures:
        """One in a hundred deleted, the space given back, everything checked."""
        return process("knowledge_compact", {**self.given, "every": DELETED_EVERY})

    def _index(self, kind: str, settings: Mapping[str, Any], part: str) -> dict[str, Any]:
        return process(
            "knowledge_index", {**self.given, "kind": kind, "settings": dict(settings), "part": part}
        )


def recall(exact: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """The share of what the exact search finds that another finds too."""
    shares = [len(set(e) & set(f)) / len(e) for e, f in zip(exact, found, strict=True) if e]
    return float(np.mean(shares))


def run(bench: Bench) -> Figures:
    """All steps; each says what it found as soon as it has."""
    figures: Figures = {}

    def tell(step: str, found: Figures) -> None:
        figures.update(found)
        for name, value in found.items():
            print(f"{step:<10} {name:<40} {value:>18,.2f}", flush=True)

    scans = "scan" in inspect.signature(KnowledgeBase.build_index).parameters
    plain = {"scan": "float32"} if scans else {}
    seconds = bench.arguments.seconds
    tell("build", bench.build())
    if scans:
        bench.drop(plain)
    tell("open", bench.open())
    tell("exact", bench.search("float32_1_thread", [ALL, {"name": "k5", "k": 5}], threads=1))
    tell("exact", bench.search("float32", [ALL, {"name": "k5", "k": 5}, *FILTERS]))
    for kind in SCANS:
        if scans:
            tell("exact", bench.scan(kind))
        else:
            print(f"{'exact':<10} through {kind}: not in this version")
    tell("hnsw", bench.hnsw(plain))
    if hasattr(KnowledgeBase, "search_questions"):
        tell("words", bench.words())
    else:
        print(f"{'words':<10} BM25 and hybrid search: not in this version")
    tell("write", writing_while_searching(bench.given, seconds=seconds))
    tell("write", newcomer_delays(bench.given, calls=bench.arguments.newcomers))
    bench.drop(plain)
    tell("compact", bench.compact())
    return figures


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=positive, default=200_000, help="default %(default)s")
    parser.add_argument("--dim", type=positive, default=384, help="of their vectors; default %(default)s")
    parser.add_argument(
        "--batch", type=positive, default=10_000, help="passages in one upsert; default %(default)s"
    )
    parser.add_argument("--queries", type=positive, default=200, help="of each kind; default %(default)s")
    parser.add_argument(
        "--seconds", type=positive, default=20, help="of writing while searching; default %(default)s"
    )
    parser.add_argument(
        "--newcomers", type=positive, default=50, help="passages waited for; default %(default)s"
    )
    parser.add_argument("--threads", type=positive, default=available_threads(), help="default %(default)s")
    parser.add_argument("--random", action="store_true", help="random vectors and words, not the demo's")
    parser.add_argument(
        "--folder", type=Path, help="where the knowledge base is made; default a temporary one"
    )
    parser.add_argument("--seed", type=natural, default=0, help="of what is drawn at random")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    if arguments.passages % min(arguments.batch, arguments.passages):
        parser.error(
            f"argument --passages: {arguments.passages} is no multiple of --batch, {arguments.batch}"
        )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    arguments = parse(argv)
    if not arguments.random and not has_demo(arguments.dim):
        raise BenchmarkError(
            "the demo's vectors are missing or of another width: `make models`, or add --random"
        )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = run(Bench(Path(folder), arguments))
    peak = max(value for name, value in figures.items() if name.endswith("peak_mb"))
    figures["most_resident_mb"] = peak
    within = peak <= LIMIT_MB
    print(
        f"most resident memory of any process: {peak:,.0f} MiB, {'within' if within else 'MORE THAN'} {LIMIT_MB:,}"
    )
    record = {
        "benchmark": "knowledge",
        "results": [{name: round(value, 4) for name, value in figures.items()}],
        "dim": arguments.dim,
        "source": "random" if arguments.random else "demo",
        "within_6_gb": within,
        "seed": arguments.seed,
        "threads": arguments.threads,
        **machine(),
    }
    print(json.dumps(record))
    return 0 if within else 1


if __name__ == "__main__":
    raise SystemExit(script(main))
