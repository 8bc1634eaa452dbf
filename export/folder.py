"""A folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from rag_infer.bundle import MANIFEST
from rag_infer.errors import ExportError


@contextlib.contextmanager
def new_folder(out: Path, *, force: bool) -> Iterator[Path]:
    """Give a temporary folder beside ``out`` to fill; at the end of the block it takes the place of ``out``.

    If the block raises, the temporary folder is removed and ``out`` is as it was. A process that is killed
    leaves a folder whose name tells its process; the next export of the same ``out`` clears it away.

    Args:
        out: the folder to make; its parents are made too.
        force: whether a bundle that stands there may be replaced.

    Raises:
        ExportError: ``out`` stands already and ``force`` is not given, or what stands there is no bundle.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow a link that is to be replaced
    out.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(out)
    _check_free(out, force=force)
    temporary = _sibling(out, "export")
    temporary.mkdir()
    try:
        yield temporary
        _check_free(out, force=force)
        _move_in(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear_leftovers(out: Path) -> None:
    """Remove what killed exports of ``out`` left; put back a bundle that one had just moved aside."""
    pattern = re.compile(rf"\.{re.escape(out.name)}\.(export|replaced)-(\d+)-[0-9a-f]+")
    for path in sorted(out.parent.iterdir()):
        match = pattern.fullmatch(path.name)
        if match is None or _is_alive(int(match[2])):
            continue
        if match[1] == "replaced" and not out.exists():
            path.rename(out)
        else:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a folder, or a link without what it points to."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _move_in(temporary: Path, out: Path) -> None:
    if not out.exists():
        temporary.rename(out)
        return
    replaced = _sibling(out, "replaced")
    out.rename(replaced)
    try:
        temporary.rename(out)
    except OSError:
        replaced.rename(out)
        raise
    _remove(replaced)


def _check_free(out: Path, *, force: bool) -> None:
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    recorded = _recorded_files(out)
    if recorded is None:
        raise ExportError(f"{out} exists and is not a bundle: it is not replaced, choose another place")
    present = {p.relative_to(out).as_posix() for p in out.rglob("*") if not p.is_dir()}
    strange = sorted(present - recorded - {MANIFEST})
    if strange:
        raise ExportError(
            f"{out} holds {strange[0]}, which is no part of the bundle: it is not replaced, move it first"
        )
    if not force:
        raise ExportError(f"{out} exists: give --force (force=True) to replace it")


def _recorded_files(folder: Path) -> set[str] | None:
    """The files a bundle's manifest names, whatever else is wrong with it; None where it is none of ours."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format_version"), int):
        return None
    return set(manifest.get("files") or ())


def _sibling(out: Path, kind: str) -> Path:
    return out.with_name(f".{out.name}.{kind}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine has this id."""
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
