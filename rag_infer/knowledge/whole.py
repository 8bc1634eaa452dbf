"""A file or folder that gets its name when it is whole; until then it lies in a hidden folder beside it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge.vectors import sync_folder


@contextlib.contextmanager
def made_whole(path: Path, *, folder: bool) -> Iterator[Path]:
    """Where to write instead, for a ``with`` block; at its end that becomes the path, or it vanishes.

    A symbolic link is followed. What a killed process has left of the same path is removed.

    Args:
        path: must not exist; a folder may exist if it is empty.
        folder: whether a folder is to be made. The caller puts what is in it on the disk.

    Raises:
        KnowledgeBaseError: there is something, at the beginning or by the end.
        OSError: as the file system has it.
    """
    _check_free(path, folder=folder)
    target = Path(os.path.realpath(path))
    with _hidden(target) as hidden:
        made = hidden / "whole"
        yield made
        if folder:
            sync_folder(made)
        _check_free(path, folder=folder)  # another process may have been quicker
        made.rename(target)
    sync_folder(target.parent)


def _check_free(path: Path, *, folder: bool) -> None:
    if path.exists() and not (folder and path.is_dir() and not any(path.iterdir())):
        reason = "exists and is not an empty folder" if folder else "exists"
        raise KnowledgeBaseError(f"{path} {reason}: choose another name")


@contextlib.contextmanager
def _hidden(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(target)
    hidden = target.with_name(f".{target.name}.{uuid.uuid4().hex}.unfinished")
    hidden.mkdir()
    try:
        with _locked(hidden):
            yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _remove_left(target: Path) -> None:
    """Remove what nobody is writing any more, and nothing that somebody else may have named."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{32}}\.unfinished")
    for left in target.parent.iterdir():
        if name.fullmatch(left.name):
            with contextlib.suppress(OSError), _locked(left):
                shutil.rmtree(left)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which tells that its maker lives; OSError where another does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
