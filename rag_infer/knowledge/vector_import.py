"""Passages and ready vectors put together by id, batch by batch, in bounded memory whatever their order.

Vectors mostly come in the order of their passages; then both files are read side by side. Passages that are passed
over wait in a temporary database on the disk until their vectors come.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from rag_infer.errors import VectorFileError
from rag_infer.knowledge.passage import Passage
from rag_infer.knowledge.temporary import no_room, temporary_database
from rag_infer.knowledge.vector_files import VectorBatch, read_vectors


class VectorImport:
    """The vectors of some files with their passages.

    Args:
        paths: files as `read_vectors` takes them.
        dim: width of a vector.
        passages: their texts; None where each file is a ``datasets`` folder with its own.
        ids: the ids of a ``.npy`` file's rows; without, the rows of all such files are the passages in their order.

    Attributes:
        without_vector: passages that had none, once all is read.

    Raises:
        VectorFileError: texts are missing, or given twice over; ids for other files than one array. While iterating:
            a damaged file, an id without passage, an id for the second time.
    """

    def __init__(
        self, paths: Sequence[Path], *, dim: int, passages: Iterable[Passage] | None, ids: Path | None = None
    ) -> None:
        check_sources(paths, texts=passages is not None, ids=ids)
        self._paths = paths
        self._dim = dim
        self._ids = ids
        self.without_vector = 0
        self._waiting = _Waiting(iter(() if passages is None else passages))

    def __iter__(self) -> Iterator[VectorBatch]:
        """Batches that have passages, as many as vectors."""
        for path in self._paths:
            for batch in read_vectors(path, dim=self._dim, ids=self._ids):
                passages: list[Passage] = []
                for passage in self._pair(batch) if batch.passages is None else batch.passages:
                    self._waiting.note(passage.id, batch.path, batch.first + len(passages))
                    passages.append(passage)
                yield replace(batch, passages=passages)
        self.without_vector = self._waiting.left()

    def close(self) -> None:
        """Let go of the temporary database."""
        self._waiting.close()

    def _pair(self, batch: VectorBatch) -> Iterator[Passage]:
        for i in range(len(batch.vectors)):
            id_ = None if batch.ids is None else batch.ids[i]
            passage = self._waiting.next() if id_ is None else self._waiting.take(id_)
            if passage is None:
                number = batch.first + i
                if id_ is None:
                    raise VectorFileError(f"{batch.path}, vector {number}: there are no more passages")
                self._waiting.note(id_, batch.path, number)
                raise VectorFileError(f"{batch.path}, vector {number}: no passage has its id {id_!r}")
            yield passage


def check_sources(paths: Sequence[Path], *, texts: bool, ids: Path | None) -> None:
    """Refuse what cannot be imported whatever is in the files; ``texts`` tells whether passages are given.

    Raises:
        VectorFileError: as `VectorImport`, and where there is no such file.
    """
    for path in paths:
        if not path.exists():
            raise VectorFileError(f"no such file of vectors: {path}")
        if not texts and not path.is_dir():
            raise VectorFileError(f"{path} has vectors only: name the passages too (--passages)")
        if texts and path.is_dir():
            raise VectorFileError(f"{path} has its own texts: import it without other passages")
    if ids is not None and (len(paths) != 1 or paths[0].suffix != ".npy"):
        raise VectorFileError(f"{ids}: ids go with one .npy file, got {len(paths)} files of vectors")


class _Waiting:
    """Passages whose vector has not come yet, and which ids have had theirs."""

    def __init__(self, passages: Iterator[Passage]) -> None:
        self._passages = passages
        self._database = temporary_database(
            "CREATE TABLE waiting (id TEXT, title TEXT, text TEXT, metadata TEXT)",
            "CREATE INDEX waiting_by_id ON waiting (id)",
            "CREATE TABLE done (digest INTEGER PRIMARY KEY, path TEXT, number INTEGER)",
        )

    def next(self) -> Passage | None:
        """The next passage in their order."""
        return next(self._passages, None)

    def take(self, id_: str) -> Passage | None:
        """The passage of an id, which is not waiting any more then; None where there is none."""
        query = "DELETE FROM waiting WHERE id = ? RETURNING id, text, title, metadata"
        with no_room(VectorFileError):
            found = self._database.execute(query, (id_,)).fetchone()
        if found is not None:
            return Passage(found[0], found[1], found[2], json.loads(found[3]))
        for passage in self._passages:
            if passage.id == id_:
                return passage
            values = (passage.id, passage.title, passage.text, json.dumps(dict(passage.metadata)))
            with no_room(VectorFileError):
                self._database.execute("INSERT INTO waiting VALUES (?, ?, ?, ?)", values)
        return None

    def note(self, id_: str, path: Path, number: int) -> None:
        """An id has its vector.

        Raises:
            VectorFileError: it has had one before.
        """
        digest = int.from_bytes(
            blake2b(id_.encode("utf-8", "replace"), digest_size=8).digest(), "big", signed=True
        )
        with no_room(VectorFileError):
            query = "INSERT OR IGNORE INTO done VALUES (?, ?, ?)"
            if self._database.execute(query, (digest, str(path), number)).rowcount:
                return
            query = "SELECT path, number FROM done WHERE digest = ?"
            where, before = self._database.execute(query, (digest,)).fetchone()
            raise VectorFileError(
                f"{path}, vector {number}: its id {id_!r} is also that of {where}, vector {before}"
            )

    def left(self) -> int:
        """How many passages got no vector."""
        with no_room(VectorFileError):
            (waiting,) = self._database.execute("SELECT count(*) FROM waiting").fetchone()
        return int(waiting) + sum(1 for _ in self._passages)

    def close(self) -> None:
        """Let go of the temporary database."""
        self._database.close()
