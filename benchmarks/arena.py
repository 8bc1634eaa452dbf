"""Contenders in processes of their own, timed in turn: no library's threads or memory get in another's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.report import Comparison

ROOT = Path(__file__).resolve().parent.parent
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
# Rest before each run: pools go on spinning for a while after their work.
PAUSE_S = 0.3


class MissingPeersError(Exception):
    """The peers' environment has not been made."""


@dataclass(frozen=True)
class Contender:
    """A program to be timed.

    Attributes:
        name: as it is called in the table.
        module: the name of a module in `benchmarks.contenders`.
        arguments: what it is given, fit for JSON; ``threads`` is needed.
        peer: whether it runs in the peers' environment, ``make bench-peers``.
    """

    name: str
    module: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    peer: bool = False


class Process:
    """A contender that is running; a context manager that ends it."""

    def __init__(self, contender: Contender) -> None:
        self.name = contender.name
        if contender.peer and not PEERS_PYTHON.exists():
            raise MissingPeersError(
                f"{contender.name} needs the peers' environment: run `make bench-peers` first"
            )
        python = str(PEERS_PYTHON) if contender.peer else sys.executable
        threads = str(contender.arguments["threads"])
        self._process = subprocess.Popen(
            [
                python,
                "-m",
                f"benchmarks.contenders.{contender.module}",
                json.dumps(dict(contender.arguments)),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"},
        )
        self.anonymous_mb = 0.0
        try:
            self.versions: dict[str, str] = self._read()["versions"]
        except BaseException:
            self.close()
            raise

    def run(self) -> tuple[float, Any]:
        """(milliseconds, the answer) of one run."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        reply = self._read()
        self.anonymous_mb = max(self.anonymous_mb, reply["anonymous_mb"])
        return reply["milliseconds"], reply["answer"]

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process: it stops where its input ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the contender {self.name} ended with status {self._process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        return reply


def contest(case: str, contenders: Sequence[Contender], repeats: int) -> tuple[Comparison, dict[str, Any]]:
    """Time contenders in turn; one round to warm up.

    Args:
        case: what is done.
        contenders: the one to beat first.
        repeats: timed runs of each.

    Returns:
        The times, and by contender its first answer.
    """
    with ExitStack() as stack:
        processes = [stack.enter_context(Process(contender)) for contender in contenders]
        milliseconds: dict[str, list[float]] = {p.name: [] for p in processes}
        answers: dict[str, Any] = {}
        for turn in range(repeats + 1):
            for process in processes:
                time.sleep(PAUSE_S)
                elapsed, answer = process.run()
                if turn:
                    milliseconds[process.name].append(elapsed)
                answers.setdefault(process.name, answer)
        memory = {p.name: round(p.anonymous_mb) for p in processes}
        versions = {k: v for p in processes for k, v in p.versions.items()}
        return Comparison(case, milliseconds, memory, versions), answers
