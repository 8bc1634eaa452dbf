"""Kills writing processes at random moments, and looks at what they leave.

``python -m tests.knowledge.killed_writers --kills 2000`` repeats the figure of the closing note.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from rag_infer.knowledge import KnowledgeBase
from tests.knowledge import history


class Log:
    """What a writer said, one line at a time: "?n" before change n, "!n" when it was committed. A kill keeps it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._path = path

    def say(self, line: str) -> None:
        os.write(self._descriptor, f"{line}\n".encode())

    def wait_for(self, line: str) -> None:
        """Wait until a line was said, for at most half a minute."""
        deadline = time.monotonic() + 30
        while line not in self._path.read_text().split() and time.monotonic() < deadline:
            time.sleep(0.002)

    def last(self) -> tuple[int, int | None]:
        """(Number of changes that were committed, the change that was begun after them or None)."""
        lines = self._path.read_text().split()
        done = 1 + max((int(line[1:]) for line in lines if line[0] == "!"), default=-1)
        return done, done if f"?{done}" in lines else None


def main() -> int:
    """Print what happened as one line of JSON; 1 where something was lost or shown that should not be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = _kill_writers(Path(folder), arguments.kills, arguments.seed)
    print(json.dumps(report))
    return 1 if report["problem"] else 0


def _kill_writers(folder: Path, kills: int, seed: int) -> dict[str, object]:
    chance = random.Random(seed)
    path, answer, log = folder / "kb", folder / "answer", Log(folder / "log")
    KnowledgeBase.create(path, encoder=history.encoder(), rows_per_segment=17, threads=1).close()
    contents: history.Contents = {}
    replayed, interrupted = 0, 0
    for kill in range(kills):
        start, _ = log.last()
        writer = _fork(lambda start=start: _write(path, log, start))
        if chance.random() < 0.9:  # else it may be killed while it opens
            log.wait_for(f"!{start}")
        time.sleep(chance.uniform(0, 0.15))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        done, begun = log.last()
        while replayed < done:
            contents = history.replay(contents, replayed)
            replayed += 1
        # The change in progress may have been committed before it could be said.
        after = contents if begun is None else history.replay(contents, begun)
        verifier = _fork(lambda contents=contents, after=after: _verify(path, contents, after, answer))
        _, status = os.waitpid(verifier, 0)
        said = answer.read_text() if answer.exists() else ""
        if os.waitstatus_to_exitcode(status) != 0 or said not in ("before", "after"):
            return {
                "kills": kill + 1,
                "changes": replayed,
                "problem": said or f"the verifier ended with {status}",
            }
        interrupted += begun is not None
        if said == "after" and begun is not None:
            log.say(f"!{begun}")
    return {"kills": kills, "changes": replayed, "killed_within_a_change": interrupted, "problem": ""}


def _fork(work: Callable[[], None]) -> int:
    """A child process; importing everything anew for each would take most of the time."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        warnings.simplefilter("ignore")
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _write(path: Path, log: Log, change: int) -> None:
    kb = KnowledgeBase.open(path, encoder=history.encoder(), threads=1)
    while True:
        log.say(f"?{change}")
        history.make(kb, change)
        log.say(f"!{change}")
        change += 1


def _verify(path: Path, before: history.Contents, after: history.Contents, answer: Path) -> None:
    answer.unlink(missing_ok=True)
    with KnowledgeBase.open(path, encoder=history.encoder(), threads=1) as kb:
        wrong = history.difference(kb, after)
        if not wrong:
            answer.write_text("after")
            return
        wrong_before = history.difference(kb, before)
        answer.write_text(f"{wrong}; {wrong_before}" if wrong_before else "before")


if __name__ == "__main__":
    raise SystemExit(main())
