"""The contender's side of `benchmarks.arena`: run when told to, and answer with the time it took."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def serve(run: Callable[[], Any], versions: dict[str, str]) -> None:
    """Say that all is ready, then run once for each line read, until there is none.

    Args:
        run: what is timed; its result, if it has one, must be fit for JSON and is compared between contenders.
        versions: of the libraries that do the work.
    """
    reply = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    _say(reply, {"ready": True, "versions": versions})
    for line in sys.stdin:
        if not line.strip():
            break
        start = time.perf_counter()
        answer = run()
        elapsed = time.perf_counter() - start
        _say(reply, {"milliseconds": elapsed * 1e3, "answer": answer, "anonymous_mb": anonymous_megabytes()})


def arguments() -> dict[str, Any]:
    """What the arena passes: a JSON object."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    os.environ.setdefault("OMP_NUM_THREADS", str(given["threads"]))
    return given


def sketch(vectors: Any) -> list[list[float]]:
    """A few of many vectors, to be compared between contenders."""
    first: list[list[float]] = vectors[:16].astype(float).round(6).tolist()
    return first


def anonymous_megabytes() -> float:
    """Private memory of this process that is no file's."""
    listing = Path("/proc/self/smaps_rollup")
    lines = listing.read_text(encoding="ascii").splitlines() if listing.exists() else []
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("Anonymous:"))


def _say(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()
