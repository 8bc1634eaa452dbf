"""A consistent copy of a knowledge base while another process writes to it: one revision, checked, whole or not there.

Within one read transaction the vector files and the snapshot's files are opened, so that a compaction cannot take
them away any more, and the record is copied by SQLite's online backup. The bytes of the vectors are copied after it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge.check import check
from rag_infer.knowledge.folder import LOCK, sizes
from rag_infer.knowledge.head import write_head
from rag_infer.knowledge.hnsw import SNAPSHOTS, check_snapshot
from rag_infer.knowledge.image_files import ImageFiles
from rag_infer.knowledge.lock import WriterLock
from rag_infer.knowledge.revision import Revision, holding_revision
from rag_infer.knowledge.schema import State, read_settings, read_state, write_state
from rag_infer.knowledge.store import RECORD, Record
from rag_infer.knowledge.vectors import VECTORS, Segments
from rag_infer.knowledge.whole import made_whole
from rag_infer.knowledge.writer import Writer

COPY_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class BackupReport:
    """What was copied and checked.

    Attributes:
        revision, passages, rows: of the copy.
        snapshot: name of the HNSW snapshot, or "" where there was none, or it was replaced during the copying.
        bytes: of the copy.
    """

    revision: int
    passages: int
    rows: int
    snapshot: str
    bytes: int


def backup(source: Writer, folder: Path, *, dim: int) -> BackupReport:
    """Copy the newest revision to a folder; the source is not locked.

    Args:
        source: of the knowledge base; nothing is written with it.
        folder: must not exist, or be empty.
        dim: width of the vectors.

    Raises:
        KnowledgeBaseError: there is something in the folder, or it cannot be written. Nothing half made is left.
        CorruptIndexError: the source is damaged: the copy does not pass `index check`.
    """
    if folder.resolve().is_relative_to(source.folder.resolve()):
        raise KnowledgeBaseError(f"{folder} lies in the knowledge base itself: choose another folder")
    try:
        with made_whole(folder, folder=True) as temporary:
            temporary.mkdir()
            state = _copy(source, temporary, dim=dim)
            _check(temporary, source)
            _sync(temporary)
            report = BackupReport(
                revision=state.revision,
                passages=state.passages,
                rows=state.rows,
                snapshot=state.snapshot,
                bytes=sum(sizes(temporary).values()),
            )
    except OSError as error:
        raise KnowledgeBaseError(
            f"{folder} could not be written ({error.strerror or error}); no backup was made"
        ) from error
    return report


def _copy(source: Writer, target: Path, *, dim: int) -> State:
    """Write the record, the vectors and the snapshot; returns the copy's state."""
    (target / VECTORS).mkdir()
    (target / SNAPSHOTS).mkdir()
    with contextlib.ExitStack() as opened:
        with holding_revision(source.record, source.segments) as revision:
            snapshot = _open_snapshot(source.snapshots / revision.state.snapshot, revision.state, opened)
            _copy_record(revision, target / RECORD)
            _copy_images(source, revision, ImageFiles(target))
        _copy_vectors(revision, source.segments, target / VECTORS)
        state = revision.state
        if snapshot:
            _copy_snapshot(snapshot, target / SNAPSHOTS / state.snapshot)
    kept = replace(state, scan="", scan_sha256="")  # codes are quickly made again
    if state.snapshot and not _snapshot_is_whole(source, target, state, dim):
        shutil.rmtree(target / SNAPSHOTS / state.snapshot, ignore_errors=True)
        kept = replace(kept, snapshot="", snapshot_sha256="")
    if kept != state:
        with contextlib.closing(Record(target)) as record, record.writing() as connection:
            write_state(connection, kept)
    write_head(target, kept.revision)
    return kept


def _open_snapshot(folder: Path, state: State, opened: contextlib.ExitStack) -> dict[str, BinaryIO]:
    """The snapshot's files, open: a writer that replaces it removes their names only."""
    if not state.snapshot:
        return {}
    try:
        return {path.name: opened.enter_context(path.open("rb")) for path in folder.iterdir()}
    except FileNotFoundError:
        return {}


def _copy_record(revision: Revision, path: Path) -> None:
    """SQLite's online backup, on the connection whose transaction holds the revision."""
    copy = sqlite3.connect(path, isolation_level=None)
    try:
        copy.execute("PRAGMA journal_mode = OFF")  # until it is renamed, nobody needs it
        copy.execute("PRAGMA synchronous = OFF")
        revision.connection.backup(copy)
    except sqlite3.OperationalError as error:
        raise OSError(str(error)) from error  # which `backup` tells with the name of the folder
    finally:
        copy.close()


def _copy_images(source: Writer, revision: Revision, target: ImageFiles) -> None:
    """The image files of the revision's passages.

    Raises:
        KnowledgeBaseError: one is not there any more.
    """
    for path in source.images.used(revision.connection):
        copy = target.path(path.name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise KnowledgeBaseError(
                f"{path} is not there: removed by a compaction since the copy was begun, or lost ('rag-infer index "
                "check' tells); no backup was made, begin again"
            ) from None
        copy.write_bytes(data)


def _copy_vectors(revision: Revision, segments: Segments, target: Path) -> None:
    state = revision.state
    for number, (_, vectors) in enumerate(revision.vectors.slices()):
        data = vectors.data.cast("B")
        with (target / segments.path(state.generation, number).name).open("wb") as stream:
            for start in range(0, len(data), COPY_BYTES):
                stream.write(data[start : start + COPY_BYTES])


def _copy_snapshot(files: dict[str, BinaryIO], target: Path) -> None:
    target.mkdir()
    for name, stream in files.items():
        with (target / name).open("wb") as copy:
            shutil.copyfileobj(stream, copy, COPY_BYTES)


def _snapshot_is_whole(source: Writer, target: Path, state: State, dim: int) -> bool:
    """Whether the copy's snapshot is as it was written; else it was removed while its files were being opened.

    Raises:
        CorruptIndexError: the source's own is damaged.
    """
    try:
        check_snapshot(target / SNAPSHOTS, state.snapshot, state.snapshot_sha256, dim=dim)
    except CorruptIndexError:
        with source.record.reading() as connection:
            current = read_state(connection).snapshot
        if current == state.snapshot:
            check_snapshot(source.snapshots, state.snapshot, state.snapshot_sha256, dim=dim)
        return False
    return True


def _check(folder: Path, source: Writer) -> None:
    """`index check` on the copy."""
    record = Record(folder)
    with record.reading() as connection:
        settings = read_settings(connection, record.path)
    segments = Segments(folder / VECTORS, dim=settings.dim, rows_per_segment=settings.rows_per_segment)
    try:
        copy = Writer(folder, record, segments, WriterLock(folder / LOCK, timeout=0))
        check(copy, dim=settings.dim)
    except CorruptIndexError as error:
        message = str(error).replace(str(folder), str(source.record.path.parent))
        raise CorruptIndexError(f"no backup was made, the knowledge base is damaged: {message}") from error
    finally:
        record.close()


def _sync(folder: Path) -> None:
    """Put all files, and the lists of them, on the disk."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
