"""How long until an engine is ready in a new process, and how much private memory does it take and keep?

The demo's bundle and knowledge base (``make models``); their files are in the page cache after the first round, which
is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.arena import ROOT, ended
from benchmarks.checkpoints import demo_file
from benchmarks.options import natural, timing_parser
from benchmarks.report import machine
from benchmarks.script import script


def start(requests: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """What one new process reports."""
    given = {
        "bundle": str(demo_file("bundle")),
        "knowledge_base": str(demo_file("kb")),
        "threads": arguments.threads,
        "requests": requests,
        "passage_cache_mb": arguments.passage_cache_mb,
    }
    command = [sys.executable, "-m", "benchmarks.contenders.engine_ready", json.dumps(given)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise ended("the engine's process", done.returncode, done.stderr)
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = timing_parser(__doc__, repeats=5, seed=False, charted=False)
    parser.add_argument(
        "--requests",
        type=natural,
        default=0,
        help="mixed requests in one more process, and only its memory is recorded",
    )
    parser.add_argument("--passage-cache-mb", type=natural, default=0)
    arguments = parser.parse_args(argv)
    start(0, arguments)
    starts = [start(0, arguments) for _ in range(arguments.repeats)]
    weights = sum(f.stat().st_size for f in demo_file("bundle").rglob("*.data")) / 2**20
    ready = statistics.median(s["ready_s"] for s in starts)
    imported = statistics.median(s["import_s"] for s in starts)
    private = statistics.median(s["ready_mb"] for s in starts)
    print(f"import      {imported:8.2f} s")
    print(f"ready       {ready:8.2f} s (with the import)")
    print(f"weights     {weights:8.0f} MiB")
    print(f"private     {private:8.0f} MiB, {private / weights:.2f} times the weights")
    record: dict[str, Any] = {
        "import_s": imported,
        "ready_s": ready,
        "weights_mb": weights,
        "ready_mb": private,
    }
    if arguments.requests:
        report = start(arguments.requests, arguments)
        # How long this one took to start is not of interest: it was one process, once.
        memory = {name: report[name] for name in ("ready_mb", "between_mb", "end_mb")}
        record = {"requests": arguments.requests, "weights_mb": weights, **memory}
        print(f"... after {arguments.requests} requests {report['end_mb']:.0f} MiB")
        print("... after each hundred of them " + ", ".join(f"{m:.0f}" for m in report["between_mb"]))
    print(json.dumps({"benchmark": "start", "results": [record], "threads": arguments.threads, **machine()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
