"""Folders that are written once, named by the record, and removed when nobody holds them.

What can be made again from the vectors lies in such snapshots: HNSW graphs and codes for scanning. ``NAME.tmp`` is
one that is being built; its builder holds the build lock. ``NAME`` is whole, and has ``manifest.json``, of which the
record knows the sha256. Who has loaded it holds a shared ``flock`` on its file ``in_use``, which the kernel lets go
when the holder dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge.vectors import sync_folder

MANIFEST, IN_USE = "manifest.json", "in_use"
UNFINISHED = ".tmp"
BUILD_LOCK = "build.lock"


class Hold:
    """Keeps a snapshot from being removed, until `release` or until nothing refers to it any more."""

    def __init__(self, descriptor: int | None) -> None:
        self._finalizer = None if descriptor is None else weakref.finalize(self, os.close, descriptor)

    def release(self) -> None:
        """Let go; again is harmless."""
        if self._finalizer is not None:
            self._finalizer()


@contextlib.contextmanager
def holding(path: Path) -> Iterator[Hold]:
    """Hold a snapshot while it is loaded; let go if that fails.

    Raises:
        CorruptIndexError: it is being removed.
    """
    held = hold(path)
    try:
        yield held
    except BaseException:
        held.release()
        raise


def hold(path: Path) -> Hold:
    """Hold a snapshot, which may have been made by a version that knew no ``in_use``.

    Raises:
        CorruptIndexError: it is being removed.
    """
    try:
        descriptor = os.open(path / IN_USE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Hold(None)
    except OSError as error:
        raise CorruptIndexError(f"{path / IN_USE} cannot be opened: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise CorruptIndexError(f"snapshot {path} is being removed") from error
    except OSError:  # a file system without locks: nothing can be held there
        os.close(descriptor)
        return Hold(None)
    return Hold(descriptor)


def new_name(generation: int, rows: int) -> str:
    """A name that no snapshot has."""
    return f"{generation:06d}-{rows:010d}-{uuid.uuid4().hex[:8]}"


@contextlib.contextmanager
def unfinished(folder: Path, name: str) -> Iterator[Path]:
    """The folder in which a snapshot is to be built; removed if the ``with`` block fails.

    Raises:
        KnowledgeBaseError: it cannot be written.
    """
    path = folder / (name + UNFINISHED)
    try:
        path.mkdir(parents=True)
        (path / IN_USE).touch()
        yield path
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise KnowledgeBaseError(
            f"{folder / name} could not be written ({error.strerror or error}); search is exact without it"
        ) from error
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def file_sha256(path: Path, *, sync: bool = False) -> str:
    """The checksum of a file, which is put on the disk first where asked."""
    with path.open("rb") as stream:
        if sync:
            os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> str:
    """Write the manifest of an unfinished snapshot, its last file; returns the sha256."""
    data = json.dumps(manifest, indent=2).encode()
    with (path / MANIFEST).open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(path)
    return hashlib.sha256(data).hexdigest()


def read_manifest(path: Path, sha256: str) -> dict[str, Any]:
    """The manifest of a snapshot.

    Raises:
        CorruptIndexError: it is missing, or not the one that was written.
    """
    try:
        data = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise CorruptIndexError(f"snapshot {path} cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CorruptIndexError(f"{path / MANIFEST} is not the manifest that was written")
    found: dict[str, Any] = json.loads(data)
    return found


def glance_at_manifest(folder: Path, name: str) -> dict[str, Any]:
    """What a snapshot's manifest says, unchecked; empty where there is none to be read."""
    try:
        found = json.loads((folder / name / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def publish(folder: Path, name: str) -> None:
    """Make an unfinished snapshot one that the record may name. The caller holds the writer lock."""
    try:
        (folder / (name + UNFINISHED)).rename(folder / name)
        sync_folder(folder)
    except OSError as error:
        raise KnowledgeBaseError(
            f"{folder / name} could not be written ({error.strerror or error})"
        ) from error


def discard(folder: Path, name: str) -> None:
    """Remove an unfinished snapshot."""
    shutil.rmtree(folder / (name + UNFINISHED), ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what builders that have died left. The caller holds the build lock."""
    for path in folder.glob(f"*{UNFINISHED}"):
        shutil.rmtree(path, ignore_errors=True)


def remove_others(folder: Path, name: str) -> None:
    """Remove all snapshots but one, those excepted that somebody holds or is building.

    The caller holds the writer lock.
    """
    others = [path for path in folder.iterdir() if path.name != name]
    half_made = [path for path in others if path.name.endswith(UNFINISHED)]
    for path in others:
        if path not in half_made:
            _remove(path, path / IN_USE)
    if half_made:
        with _exclusively(folder.parent / BUILD_LOCK) as alone:
            if alone:
                remove_unfinished(folder)


def _remove(path: Path, lock: Path) -> None:
    with _exclusively(lock) as alone:
        if alone:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _exclusively(lock: Path) -> Iterator[bool]:
    """Whether nobody else holds a lock file; where it is missing nobody can."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield True
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        yield alone
    finally:
        os.close(descriptor)
