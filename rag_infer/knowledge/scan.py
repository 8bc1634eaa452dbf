"""Codes of the vectors for the exact search: fewer bits to read, the same answers.

A scan is a folder that is written once: codes, scales, errors and norms of ``_kernels.quantise_rows`` (int8) or
``_kernels.halve_rows`` (float16) as flat files, and ``manifest.json``. It covers all rows below a number, dead ones
too; newer rows are searched in float32. The kernels' certificate makes the result that of float32 to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer import _kernels
from rag_infer.errors import CorruptIndexError
from rag_infer.knowledge.snapshots import (
    Hold,
    file_sha256,
    holding,
    new_name,
    read_manifest,
    unfinished,
    write_manifest,
)
from rag_infer.knowledge.vectors import Vectors, best

SCANS = "scan"
KINDS = ("auto", "float32", "float16", "int8")
CODE_TYPES = {"int8": "<i1", "float16": "<u2"}
ROW_FILES = ("scales", "errors", "norms")

# Up to here float32 takes milliseconds.
AUTO_FLOAT32_PASSAGES = 100_000
ROWS_AT_ONCE = 16384

Codes = NDArray[np.int8] | NDArray[np.uint16]
Kernel = Callable[..., tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]]


@dataclass(frozen=True, kw_only=True)
class ScanManifest:
    """What a scan is.

    Attributes:
        kind: "int8" or "float16".
        generation, rows: the vectors it covers: all rows below ``rows``.
        dim: their width.
        sha256: of each file, by its name without ``.bin``.
    """

    kind: str
    generation: int
    rows: int
    dim: int
    sha256: dict[str, str]


@dataclass(frozen=True)
class Scan:
    """Codes, mapped into memory. `topk` may be called from several threads at once.

    Attributes:
        name, manifest: of the snapshot.
        codes: int8 or uint16 ``[rows, dim]``.
        of_rows: float32 ``[rows]`` each: scales, errors, norms.
    """

    name: str
    manifest: ScanManifest
    codes: Codes
    of_rows: tuple[NDArray[np.float32], ...]
    held: Hold

    def topk(
        self,
        vectors: Vectors,
        queries: NDArray[np.float32],
        k: int,
        *,
        first_row: int = 0,
        mask: NDArray[np.bool_] | None = None,
        threads: int = 1,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """What ``vectors.topk`` gives, to the last bit."""
        kernel: Kernel = _kernels.topk_int8 if self.manifest.kind == "int8" else _kernels.topk_float16
        covered = self.manifest.rows
        scores, rows = [], []
        for start, segment in vectors.slices(first_row):
            part = segment[: max(0, covered - start)]
            if len(part):
                here = slice(start, start + len(part))
                found, local, _ = kernel(
                    self.codes[here],
                    *(values[here] for values in self.of_rows),
                    part,
                    queries,
                    min(k, len(part)),
                    mask=None if mask is None else mask[here],
                    threads=max(1, threads),
                )
                scores.append(found)
                rows.append(np.where(local < 0, -1, local + start))
        newer = vectors.topk(queries, k, first_row=max(first_row, covered), mask=mask, threads=threads)
        return best(np.concatenate([*scores, newer[0]], axis=1), np.concatenate([*rows, newer[1]], axis=1), k)

    def release(self) -> None:
        """Let others remove it. What is mapped stays mapped."""
        self.held.release()


def check_scan_kind(kind: str) -> str:
    """The kind of scan.

    Raises:
        ValueError: an unknown one.
    """
    if kind not in KINDS:
        raise ValueError(f"scan must be one of {', '.join(KINDS)}, got {kind!r}")
    return kind


def scan_wanted(kind: str, passages: int) -> str:
    """What a knowledge base of so many passages is scanned as.

    >>> scan_wanted("auto", 10), scan_wanted("auto", 1_000_000), scan_wanted("float16", 0)
    ('float32', 'int8', 'float32')
    """
    if not passages:
        return "float32"
    if kind == "auto":
        return "int8" if passages > AUTO_FLOAT32_PASSAGES else "float32"
    return kind


def build_scan(
    folder: Path,
    kind: str,
    vectors: Vectors,
    *,
    generation: int,
    rows: int,
    dim: int,
    threads: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[str, str]:
    """Write the codes of the first ``rows`` vectors, at least one, as an unfinished snapshot (see `snapshots`).

    Args:
        folder: where scans lie.
        kind: "int8" or "float16".
        vectors, generation, dim: what is encoded.
        rows: how many.
        threads: the kernel's.
        on_progress: called with the number of rows newly written; may raise to stop.

    Returns:
        The scan's name and the sha256 of its manifest. It is on the disk, and to be published or discarded.

    Raises:
        KnowledgeBaseError: it cannot be written.
    """
    name = new_name(generation, rows)
    names = ("codes", *ROW_FILES)
    with unfinished(folder, name) as path:
        with ExitStack() as stack:
            files = [stack.enter_context(_file(path, n).open("wb")) for n in names]
            for arrays in _coded(kind, vectors, threads):
                for file, array in zip(files, arrays, strict=True):
                    file.write(array.data.cast("B"))
                if on_progress is not None:
                    on_progress(len(arrays[0]))
        sha256 = {n: file_sha256(_file(path, n), sync=True) for n in names}
        manifest = ScanManifest(kind=kind, generation=generation, rows=rows, dim=dim, sha256=sha256)
        return name, write_manifest(path, asdict(manifest))


def load_scan(folder: Path, name: str, manifest_sha256: str, *, dim: int) -> Scan:
    """Map a scan after checking it.

    Raises:
        CorruptIndexError: it is not as it was written.
    """
    path = folder / name
    with holding(path) as held:
        manifest = check_scan(folder, name, manifest_sha256, dim=dim)
        try:
            codes = _map(_file(path, "codes"), CODE_TYPES[manifest.kind], (manifest.rows, dim))
            of_rows = tuple(_map(_file(path, n), "<f4", (manifest.rows,)) for n in ROW_FILES)
        except (OSError, ValueError) as error:
            raise CorruptIndexError(f"snapshot {path} cannot be read: {error}") from error
        return Scan(name, manifest, codes, of_rows, held)


def check_scan(folder: Path, name: str, manifest_sha256: str, *, dim: int) -> ScanManifest:
    """The manifest of a scan whose files are as they were written.

    Raises:
        CorruptIndexError: a file is missing or altered.
    """
    path = folder / name
    found = read_manifest(path, manifest_sha256)
    try:
        manifest = ScanManifest(**found)
        if manifest.dim != dim:
            raise CorruptIndexError(f"{path} has codes of {manifest.dim} dimensions, expected {dim}")
        for file_name, expected in manifest.sha256.items():
            file = _file(path, file_name)
            sha256 = file_sha256(file)
            if sha256 != expected:
                size = file.stat().st_size
                raise CorruptIndexError(f"{file} has {size:,} bytes and sha256 {sha256}, expected {expected}")
    except (OSError, TypeError) as error:
        raise CorruptIndexError(f"snapshot {path} cannot be read: {error}") from error
    return manifest


def _coded(kind: str, vectors: Vectors, threads: int) -> Iterator[tuple[Codes | NDArray[np.float32], ...]]:
    encode = _kernels.quantise_rows if kind == "int8" else _kernels.halve_rows
    for _, segment in vectors.slices():
        for at in range(0, len(segment), ROWS_AT_ONCE):
            yield encode(segment[at : at + ROWS_AT_ONCE], threads=max(1, threads))


def _file(path: Path, name: str) -> Path:
    return path / f"{name}.bin"


def _map(path: Path, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=shape))
