"""Contenders in processes of their own, timed in turn: no library's threads or memory get in another's way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.report import BenchmarkError, Comparison

ROOT = Path(__file__).resolve().parent.parent
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
# Rest before each run: pools go on spinning for a while after their work.
PAUSE_S = 0.3


class MissingPeersError(BenchmarkError):
    """The peers' environment has not been made, or was made before a library was added to it."""


class EndedError(BenchmarkError):
    """A process ended before its work was done."""


def ended(name: str, status: int, errors: str) -> EndedError:
    """The error of a process that ended.

    Args:
        name: of the process.
        status: as `subprocess.Popen.returncode` has it.
        errors: what it wrote on stderr. The message has the last line, a traceback (``--debug``) all of it.
    """
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    lines = errors.split("\n") if errors.strip() else ["it gave no reason"]
    error = EndedError(f"{name} ended {how}: {[line for line in lines if line.strip()][-1].strip()}")
    error.add_note(errors)
    return error


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
        self._peer = contender.peer
        if contender.peer and not PEERS_PYTHON.exists():
            raise MissingPeersError(
                f"{contender.name} needs the peers' environment: run `make bench-peers` first"
            )
        python = str(PEERS_PYTHON) if contender.peer else sys.executable
        threads = str(contender.arguments["threads"])
        # A file, as nobody reads along: a pipe would fill and stop the contender.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - close() does
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
            stderr=self._errors,
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
        with suppress(BrokenPipeError):  # where it has ended, reading its answer says why
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
        with suppress(BrokenPipeError):  # it has ended by itself
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            error = ended(f"the contender {self.name}", status, self._errors.read())
            if self._peer and "ModuleNotFoundError" in str(error):
                raise MissingPeersError(f"{error}; run `make bench-peers` again") from error
            raise error
        try:
            reply: dict[str, Any] = json.loads(line)
        except ValueError:
            raise BenchmarkError(
                f"the contender {self.name} wrote {line!r} where its answer was due"
            ) from None
        return reply


def contest(case: str, contenders: Sequence[Contender], repeats: int) -> tuple[Comparison, dict[str, Any]]:
    """Time contenders in turn; one round to warm up.

    Args:
        case: what is done.
        contenders: the one to beat first.
        repeats: timed runs of each.

    Returns:
        The times, and by contender its first answer.

    Raises:
        MissingPeersError: a peer takes part, and the peers' environment lacks it.
        EndedError: a contender ended.
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
