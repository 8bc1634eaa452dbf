"""The processes of `benchmarks.bench_knowledge`: one alone, and one that writes beside one that searches."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.arena import ROOT, ended
from benchmarks.report import BenchmarkError

# Numbers of batches that no two steps share.
FIRST_BUSY, FIRST_NEWCOMER = 0, 1_000_000
BATCH = 100
PAUSE_S = 0.1
MANY = 1_000_000


class Running:
    """A process of `benchmarks.contenders` that says "ready", and its last line when it ends."""

    def __init__(self, module: str, given: Mapping[str, Any]) -> None:
        self._module = module
        # A file, as nobody reads along: a pipe would fill and stop the process.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - finish() does
        command = [sys.executable, "-m", f"benchmarks.contenders.{module}", json.dumps(dict(given))]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def wait_until_ready(self) -> None:
        """Read its first line.

        Raises:
            EndedError: it ended instead.
        """
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            self.finish()

    def start(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def finish(self) -> dict[str, Any]:
        """End its input; what it reports.

        Raises:
            EndedError: it failed.
        """
        out, _ = self._process.communicate()
        self._errors.seek(0)
        errors = self._errors.read()
        self._errors.close()
        if self._process.returncode:
            raise ended(self._module, self._process.returncode, errors)
        report: dict[str, Any] = json.loads(out.splitlines()[-1])
        return report

    def kill(self) -> None:
        """Leave nothing behind."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def process(module: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a new process reports.

    Raises:
        EndedError: it failed.
    """
    return Running(module, given).finish()


def writing_while_searching(given: Mapping[str, Any], *, seconds: int) -> dict[str, float]:
    """Batches of 100 upserted as fast as they go, while another process searches."""
    quiet = _watched({**given, "watch": "busy"}, {"seconds": seconds, "calls": 0, "batch": 1, "first": 0})[0]
    writing = {"seconds": seconds, "calls": MANY, "batch": BATCH, "first": FIRST_BUSY, "pause_s": 0.0}
    searched, written = _watched({**given, "watch": "busy"}, writing)
    calls = written["calls"]
    figures = {"busy_passages_per_s": BATCH * len(calls) / (calls[-1][2] - calls[0][1])}
    for name, report in (("idle", quiet), ("busy", searched)):
        p50, p99 = np.percentile(report["milliseconds"], [50, 99])
        figures |= {f"{name}_search_p50_ms": float(p50), f"{name}_search_p99_ms": float(p99)}
    figures["busy_searches_per_s"] = len(searched["milliseconds"]) / seconds
    figures["busy_revisions_seen"] = searched["revisions"]
    return figures | {"busy_peak_mb": searched["peak_mb"], "busy_write_peak_mb": written["peak_mb"]}


def newcomer_delays(given: Mapping[str, Any], *, calls: int) -> dict[str, float]:
    """From an upsert of one passage in one process to the first search in another that finds it.

    Raises:
        BenchmarkError: one was never found.
    """
    one = {"batch": 1, "first": FIRST_NEWCOMER}
    writing = {"seconds": MANY, "calls": calls, "pause_s": PAUSE_S, **one}
    searched, written = _watched({**given, "watch": "newcomers", **one}, writing)
    seen = searched["seen"]
    missing = [id_ for id_, _, _ in written["calls"] if id_ not in seen]
    if missing:
        raise BenchmarkError(
            f"{len(missing)} of {calls} new passages were never found, the first is {missing[0]}"
        )
    figures: dict[str, float] = {}
    for name, place in (("call", 1), ("return", 2)):
        delays = [(seen[call[0]] - call[place]) * 1e3 for call in written["calls"]]
        p50, p99 = np.percentile(delays, [50, 99])
        figures |= {f"visible_from_{name}_p50_ms": float(p50), f"visible_from_{name}_p99_ms": float(p99)}
    return figures


def _watched(
    watching: Mapping[str, Any], writing: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(What the searching process reports, what the writing one does); with no calls there is only a wait."""
    watcher = Running("knowledge_watch", watching)
    try:
        writer = Running("knowledge_write", {**watching, "pause_s": 0.0, **writing})
        try:
            watcher.wait_until_ready()
            writer.wait_until_ready()
            writer.start()
            written = writer.finish()
        finally:
            writer.kill()
        return watcher.finish(), written
    finally:
        watcher.kill()
