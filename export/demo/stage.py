"""A stage of the demo: skipped where its result stands and was made from the same inputs."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rag_infer.errors import RagInferError

STAMPS = "stamps.json"


def fingerprint(*inputs: str | Path) -> str:
    """A sha256 over strings, and over the contents of files and of all files in folders."""
    digest = hashlib.sha256()
    for item in inputs:
        if isinstance(item, str):
            digest.update(f"{len(item)}:{item}".encode())
            continue
        paths = sorted(p for p in item.rglob("*.py")) if item.is_dir() else [item]
        for path in paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def run_stage(
    folder: Path,
    name: str,
    inputs: str,
    result: Path,
    make: Callable[[], None],
    *,
    stands: Callable[[], bool] | None = None,
) -> bool:
    """Make a stage's result unless it stands already.

    The stamp is written after the result, so a stage that was killed is made again.

    Args:
        folder: the demo's folder, which holds the stamps.
        name: the stage, for people and as the stamp's key.
        inputs: fingerprint of everything the result depends on.
        result: the file or folder that must exist.
        make: makes it.
        stands: whether it is whole; default: whether it exists.

    Returns:
        Whether it was made now.
    """
    stamps = _read(folder)
    if stamps.get(name) == inputs and (stands or result.exists)():
        print(f"[{name}] already there: {result}", flush=True)
        return False
    started = time.perf_counter()
    print(f"[{name}] ...", flush=True)
    make()
    _write(folder, {**_read(folder), name: inputs})
    print(f"[{name}] done in {time.perf_counter() - started:.1f} s: {result}", flush=True)
    return True


def told(name: str, work: Callable[[], None]) -> int:
    """Do a demonstration's work; returns the exit status, with the error in one line where there is one."""
    try:
        work()
    except (RagInferError, OSError) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted; finished stages are kept", file=sys.stderr)
        return 130
    return 0


def _read(folder: Path) -> dict[str, str]:
    try:
        stamps = json.loads((folder / STAMPS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(stamps) if isinstance(stamps, dict) else {}


def _write(folder: Path, stamps: dict[str, str]) -> None:
    temporary = folder / (STAMPS + ".new")
    temporary.write_text(json.dumps(stamps, indent=2), encoding="utf-8")
    temporary.replace(folder / STAMPS)
