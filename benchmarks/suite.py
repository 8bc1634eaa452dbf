"""The whole suite: `rag-infer bench` and `make bench` run it.

Each entry is a script that can be run alone (``python -m benchmarks.bench_...``). With ``--record`` the last line of
each, a JSON object, is kept in ``benchmarks/results/NAME.json`` and drawn in ``NAME.svg``. With ``--json`` those lines
alone are on stdout, one for each entry, and what is for people is on stderr.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chart import draw
from benchmarks.script import script

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SUITE: Mapping[str, Sequence[str]] = {
    "topk": ["bench_topk"],
    "topk-768": ["bench_topk", "--dim", "768"],
    "flat": ["bench_flat"],
    "hnsw": ["bench_hnsw"],
    "marginalise": ["bench_marginalise"],
    "products": ["bench_products"],
    "norms": ["bench_norms"],
    "start": ["bench_start"],
    "memory": ["bench_start", "--repeats", "1", "--requests", "2000", "--passage-cache-mb", "256"],
    "knowledge-200k": ["bench_knowledge"],
    "knowledge-1m": ["bench_knowledge", "--passages", "1000000"],
    "encode": ["bench_encode"],
    "causal": ["bench_causal"],
    "decode": ["bench_decode"],
    "rag-token-base": ["bench_rag"],
    "rag-token-base-greedy": ["bench_rag", "--beams", "1"],
    "rag-token-base-10-docs": ["bench_rag", "--n-docs", "10", "--repeats", "3"],
    "rag-token-base-50-docs": ["bench_rag", "--n-docs", "50", "--repeats", "1"],
    "rag-sequence-base": ["bench_rag", "--strategy", "rag-sequence", "--repeats", "2"],
    "rag-token-large": ["bench_rag", "--model", "bart-large", "--repeats", "2"],
    "easy-vqa": ["bench_images"],
}
# What runs within a minute or two and needs nothing but `make models`.
DEFAULT = ("topk", "marginalise", "start")


def run(name: str, *, record: bool, only_json: bool, debug: bool) -> int:
    """Run one entry, showing what it prints; returns its exit status."""
    module, *arguments = SUITE[name]
    people = sys.stderr if only_json else sys.stdout
    print(f"[{name}] python -m benchmarks.{' '.join([module, *arguments])}", file=people, flush=True)
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments, *(["--debug"] if debug else [])]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    *table, last = done.stdout.splitlines(keepends=True) or [""]
    print("".join(table), end="", file=people, flush=True)
    print(last, end="", file=people if done.returncode else sys.stdout, flush=True)
    print(file=people, flush=True)
    if done.returncode == 0 and record:
        keep(name, json.loads(last), RESULTS)
    return done.returncode


def keep(name: str, result: Mapping[str, Any], folder: Path) -> None:
    """Write a result, and a chart of it where it compares contenders."""
    folder.mkdir(parents=True, exist_ok=True)
    command = {"command": f"python -m benchmarks.{' '.join(SUITE[name])}"}
    text = json.dumps({**command, **result}, indent=1, sort_keys=True)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    cases = [r for r in result["results"] if "contenders" in r]
    if cases:
        draw(cases, folder / f"{name}.svg")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite, or parts of it."""
    parser = argparse.ArgumentParser(prog="rag-infer bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(SUITE)}; default {', '.join(DEFAULT)}"
    )
    parser.add_argument("--all", action="store_true", help="the whole suite, more than two hours")
    parser.add_argument(
        "--record", action="store_true", help="keep results and charts in benchmarks/results/"
    )
    parser.add_argument("--json", action="store_true", help="only the line of JSON of each on stdout")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if name not in SUITE]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}: expected of {', '.join(SUITE)}")
    names = list(SUITE) if arguments.all else arguments.names or list(DEFAULT)
    settings = {"record": arguments.record, "only_json": arguments.json, "debug": arguments.debug}
    failed = [name for name in names if run(name, **settings) != 0]
    if arguments.record:
        from benchmarks import table  # which reads this module's list

        table.main()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(script(main))
