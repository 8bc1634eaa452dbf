"""What every method of an open knowledge base stands on: its files, its encoders, and how it is closed."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge.encoders import Encoders
from rag_infer.knowledge.folder import LOCK
from rag_infer.knowledge.index import Index
from rag_infer.knowledge.lock import WriterLock
from rag_infer.knowledge.passage import Passage
from rag_infer.knowledge.rebuild import Rebuild
from rag_infer.knowledge.schema import Settings, read_settings
from rag_infer.knowledge.similarity import as_stored, parts_as_stored
from rag_infer.knowledge.store import Record
from rag_infer.knowledge.upgrade import upgrade
from rag_infer.knowledge.vectors import VECTORS, Segments
from rag_infer.knowledge.verification import Verification
from rag_infer.knowledge.view import Views
from rag_infer.knowledge.writer import Writer
from rag_infer.session import check_threads

WRITER_TIMEOUT = 10.0


class Opened:
    """The parts of an open knowledge base.

    Attributes:
        folder: where it is.
        settings: what it was made for.
    """

    def __init__(
        self,
        folder: Path,
        encoders: Encoders | None,
        *,
        threads: int | None = None,
        writer_timeout: float = WRITER_TIMEOUT,
        background_index: bool = False,
    ) -> None:
        self._threads = check_threads(threads)
        lock = WriterLock(folder / LOCK, timeout=writer_timeout)
        self.folder = folder
        upgrade(folder, lock)
        self._record = Record(folder)
        with self._record.reading() as connection:
            self.settings: Settings = read_settings(connection, self._record.path)
        self._encoders = encoders
        self._verification: Verification | None = None
        dim, rows = self.settings.dim, self.settings.rows_per_segment
        segments = Segments(folder / VECTORS, dim=dim, rows_per_segment=rows)
        self._writer = Writer(folder, self._record, segments, lock)
        self._views = Views(segments)
        rebuild = Rebuild(self._writer, self._views, dim=dim, threads=self._threads, timeout=writer_timeout)
        self._index = Index(rebuild, background=background_index)
        # Also at the interpreter's end: a thread that is ended within hnswlib takes the process with it.
        self._at_exit = weakref.finalize(self, self._index.close)

    def close(self) -> None:
        """Close the files. Closing again is harmless; anything else then raises `KnowledgeBaseError`."""
        if not self._record.forked:
            if self._verification is not None:
                self._verification.stop()
            self._at_exit()
            self._record.close()
            self._views.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _demand_whole(self) -> None:
        self._record.check_process()
        if self._verification is not None:
            self._verification.demand()

    @property
    def place(self) -> str:
        """Where it is, as messages have it."""
        return str(self.folder)

    def _need_encoders(self) -> Encoders:
        if self._encoders is None:
            raise KnowledgeBaseError(f"{self.place} was opened without a bundle: texts cannot be encoded")
        return self._encoders

    def _encode(self, passages: Sequence[Passage]) -> NDArray[np.float32]:
        return self._need_encoders().of_passages(passages)

    def _stored(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        settings = self.settings
        if settings.part_similarity != "cosine":
            return as_stored(vectors, settings.similarity)
        return parts_as_stored(vectors, settings.dim - settings.image_dim)
