"""Who may change a knowledge base, and how a change is begun and ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rag_infer.knowledge.head import write_head
from rag_infer.knowledge.hnsw import SNAPSHOTS
from rag_infer.knowledge.image_files import ImageFiles
from rag_infer.knowledge.lock import WriterLock
from rag_infer.knowledge.scan import SCANS
from rag_infer.knowledge.schema import State, read_state
from rag_infer.knowledge.snapshots import remove_others
from rag_infer.knowledge.store import Record
from rag_infer.knowledge.transaction import Transaction
from rag_infer.knowledge.vectors import Segments


class Writer:
    """Writes to the folder of a knowledge base, one writer at a time.

    Args:
        folder: the knowledge base.
        record, segments: what lies in it.
        lock: who may write.
    """

    def __init__(self, folder: Path, record: Record, segments: Segments, lock: WriterLock) -> None:
        self.folder = folder
        self.snapshots = folder / SNAPSHOTS
        self.scans = folder / SCANS
        self.images = ImageFiles(folder)
        self.segments = segments
        self.record = record
        self.lock = lock

    @contextlib.contextmanager
    def session(self, *, timeout: float | None = None) -> Iterator[None]:
        """Hold the writer lock; what an earlier writer left unfinished is removed first.

        Raises:
            KnowledgeBaseError: another writer holds the lock.
            CorruptIndexError: a vector file is missing or too short.
        """
        with self.lock.hold(timeout=timeout) as outermost:
            if outermost:
                self.clear()
            yield

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Changes that become visible together at the end of the ``with`` block, or not at all."""
        with self.session():
            with self.record.writing() as connection:
                transaction = Transaction(connection, self.segments, self.images)
                yield transaction
                revision = transaction.finish()
            write_head(self.folder, revision)

    def clear(self) -> None:
        """Remove files and bytes that do not count. The caller holds the lock."""
        state = self.state()
        for folder in (self.segments.folder, self.snapshots, self.scans):
            folder.mkdir(exist_ok=True)  # a copying program may have left out empty folders
        self.segments.recover(state.generation, state.rows)
        remove_others(self.snapshots, state.snapshot)
        remove_others(self.scans, state.scan)

    def state(self) -> State:
        """The committed state."""
        with self.record.reading() as connection:
            return read_state(connection)
