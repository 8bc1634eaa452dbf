"""Vectors in append-only files. What counts of them is written in the record, not here.

File ``GENERATION-NUMBER.f32`` holds rows ``NUMBER * rows_per_segment`` onwards, float32, little endian, nothing
else. Bytes past those that count are left from a write that was never committed; the next writer cuts them.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag_infer import _kernels
from rag_infer.errors import CorruptIndexError, KnowledgeBaseError

VECTORS = "vectors"
ITEM_BYTES = 4


@dataclass(frozen=True)
class Block:
    """Vectors that were written together: their first row, their number, the sha256 of their bytes."""

    first_row: int
    rows: int
    checksum: bytes


@dataclass(frozen=True)
class Vectors:
    """The vectors that count at some revision, mapped into memory, not read.

    Attributes:
        segments: float32 ``[rows, dim]`` each; all but the last have ``rows_per_segment`` rows.
        rows_per_segment: rows of a full segment.
    """

    segments: tuple[NDArray[np.float32], ...]
    rows_per_segment: int

    def topk(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        first_row: int = 0,
        mask: NDArray[np.bool_] | None = None,
        threads: int = 1,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Exact search from a row on, as `rag_infer._kernels.topk`, over all segments."""
        scores = [np.full((len(queries), 0), -np.inf, dtype=np.float32)]
        rows = [np.full((len(queries), 0), -1, dtype=np.int64)]
        for start, vectors in self.slices(first_row):
            part = None if mask is None else mask[start : start + len(vectors)]
            found, local = _kernels.topk(
                vectors, queries, min(k, len(vectors)), mask=part, threads=max(1, threads)
            )
            scores.append(found)
            rows.append(np.where(local < 0, -1, local + start))
        return best(np.concatenate(scores, axis=1), np.concatenate(rows, axis=1), k)

    def slices(self, first_row: int = 0) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, vectors) of each segment from a row on."""
        for number, segment in enumerate(self.segments):
            start = number * self.rows_per_segment
            skip = max(0, first_row - start)
            if skip < len(segment):
                yield start + skip, segment[skip:]

    def scores(
        self, rows: NDArray[np.int64], queries: NDArray[np.float32], *, threads: int = 1
    ) -> NDArray[np.float32]:
        """Scores of rows ``[queries, any]`` with each query, bit for bit those of `topk`; minus infinity for -1."""
        rescore = _kernels.rescore
        if len(self.segments) == 1:
            return rescore(self.segments[0], rows, queries, threads=max(1, threads))
        scores = np.full(rows.shape, -np.inf, dtype=np.float32)
        for number in np.unique(rows[rows >= 0] // self.rows_per_segment):
            local = rows - number * self.rows_per_segment
            local[local >= self.rows_per_segment] = -1
            np.maximum(
                scores, rescore(self.segments[number], local, queries, threads=max(1, threads)), out=scores
            )
        return scores

    def gather(self, rows: NDArray[np.int64], dim: int) -> NDArray[np.float32]:
        """Copies of some rows, float32 ``[rows, dim]``."""
        out = np.empty((len(rows), dim), dtype=np.float32)
        numbers = rows // self.rows_per_segment
        for number in np.unique(numbers):
            here = numbers == number
            out[here] = self.segments[number][rows[here] - number * self.rows_per_segment]
        return out


def best(
    scores: NDArray[np.float32], rows: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best of candidates ``[queries, any]``: descending, ties to the lower row, missing ones (-1) last."""
    order = np.lexsort((rows, -scores, rows < 0), axis=1)[:, :k]
    query = np.arange(len(rows))[:, None]
    return scores[query, order], rows[query, order]


class Segments:
    """The vector files of a knowledge base.

    Args:
        folder: where they lie.
        dim: width of a vector.
        rows_per_segment: vectors in a full file.
    """

    def __init__(self, folder: Path, *, dim: int, rows_per_segment: int) -> None:
        if sys.byteorder != "little":
            raise KnowledgeBaseError("vector files are little endian, and this machine is not")
        self.folder = folder
        self._dim = dim
        self._row_bytes = dim * ITEM_BYTES
        self._rows_per_segment = rows_per_segment
        self._mapped: dict[tuple[Path, int, int], NDArray[np.float32]] = {}

    def map(self, generation: int, rows: int) -> Vectors:
        """The first ``rows`` vectors.

        Raises:
            CorruptIndexError: a file is missing or too short; the message gives the sizes.
        """
        known, mapped = self._mapped, {}
        for number, count in self._extents(0, rows):
            inode = self._check_size(generation, number, count)
            key = (self.path(generation, number), inode, count)
            # What is mapped already is in the page table: mapped anew, the first search would fault in every page.
            mapped[key] = known[key] if key in known else self._map_file(generation, number, count)
        self._mapped = mapped
        segments = tuple(mapped.values())
        return Vectors(segments, self._rows_per_segment)

    def clear(self) -> None:
        """Let go of what is mapped."""
        self._mapped = {}

    def append(self, generation: int, first_row: int, vectors: NDArray[np.float32]) -> list[Block]:
        """Write vectors from a row on; they are on the disk when this returns.

        Raises:
            KnowledgeBaseError: they cannot be written. What was committed before is untouched.
        """
        blocks = []
        done = 0
        for number, start, count in self._pieces(first_row, len(vectors)):
            piece = vectors[done : done + count]
            path = self.path(generation, number)
            try:
                _write(path, piece, start * self._row_bytes)
            except OSError as error:
                raise KnowledgeBaseError(
                    f"{path}: {piece.nbytes:,} bytes of vectors could not be written ({error.strerror}); "
                    "committed passages are kept"
                ) from error
            blocks.append(Block(first_row + done, count, hashlib.sha256(_bytes(piece)).digest()))
            done += count
        return blocks

    def recover(self, generation: int, rows: int) -> None:
        """Remove what was written and never committed. Only a writer may do this.

        Raises:
            CorruptIndexError: a file is missing or too short.
        """
        extents = list(self._extents(0, rows))
        for number, count in extents:
            self._check_size(generation, number, count)
        kept = {self.path(generation, n): count * self._row_bytes for n, count in extents}
        for path in self.folder.glob("*.f32"):
            if path not in kept:
                path.unlink()
            elif path.stat().st_size > kept[path]:
                os.truncate(path, kept[path])

    def damaged(self, generation: int, blocks: Sequence[Block]) -> list[Block]:
        """Those blocks whose bytes are missing or differ from their checksum."""
        return [b for b in blocks if self._checksum(generation, b) != b.checksum]

    def path(self, generation: int, number: int) -> Path:
        """The file of a segment."""
        return self.folder / f"{generation:06d}-{number:06d}.f32"

    def path_of_row(self, generation: int, row: int) -> Path:
        """The file that holds a row."""
        return self.path(generation, row // self._rows_per_segment)

    def _checksum(self, generation: int, block: Block) -> bytes:
        digest = hashlib.sha256()
        for number, start, count in self._pieces(block.first_row, block.rows):
            try:
                with self.path(generation, number).open("rb") as stream:
                    stream.seek(start * self._row_bytes)
                    left = count * self._row_bytes
                    while left and (data := stream.read(min(left, 1 << 20))):
                        digest.update(data)
                        left -= len(data)
            except FileNotFoundError:
                return b""
            except OSError as error:
                raise KnowledgeBaseError(
                    f"{self.path(generation, number)} cannot be read: {error}"
                ) from error
        return digest.digest()

    def _map_file(self, generation: int, number: int, rows: int) -> NDArray[np.float32]:
        path = self.path(generation, number)
        try:
            return np.asarray(np.memmap(path, dtype="<f4", mode="r", shape=(rows, self._dim)))
        except FileNotFoundError as error:
            raise CorruptIndexError(f"{path} was removed while it was being opened") from error

    def _check_size(self, generation: int, number: int, rows: int) -> int:
        """The inode of a file that is long enough."""
        path = self.path(generation, number)
        status = path.stat() if path.is_file() else None
        size = status.st_size if status else 0
        if size < rows * self._row_bytes:
            raise CorruptIndexError(
                f"{path} has {size:,} bytes, {rows * self._row_bytes:,} are recorded ({rows:,} vectors of "
                f"{self._dim}): cut short; 'rag-infer index check KB --repair' encodes what is missing again"
            )
        return status.st_ino if status else 0

    def _extents(self, first_row: int, end: int) -> Iterator[tuple[int, int]]:
        """(number of the segment, rows in it that count) up to row ``end``."""
        for number, start, count in self._pieces(first_row, end - first_row):
            yield number, start + count

    def _pieces(self, first_row: int, rows: int) -> Iterator[tuple[int, int, int]]:
        """(number of the segment, first row in it, rows) of a run of rows."""
        end = first_row + rows
        while first_row < end:
            number, start = divmod(first_row, self._rows_per_segment)
            count = min(end - first_row, self._rows_per_segment - start)
            yield number, start, count
            first_row += count


def sync_folder(folder: Path) -> None:
    """Put a folder's list of files on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bytes(vectors: NDArray[np.float32]) -> memoryview:
    return np.ascontiguousarray(vectors, dtype="<f4").data.cast("B")


def _write(path: Path, vectors: NDArray[np.float32], offset: int) -> None:
    new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        data = _bytes(vectors)
        while data:
            written = os.pwrite(descriptor, data, offset)
            data = data[written:]
            offset += written
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if new:
        sync_folder(path.parent)
