"""The approximate index: hnswlib behind a guard. It only proposes rows; their scores are computed elsewhere.

A snapshot is a folder that is written once: ``index.bin`` and ``manifest.json``, which has the index's sha256.
The record names the snapshot and has the manifest's sha256, so that either both are as written or none is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError, RecallError
from rag_infer.knowledge.hnsw_file import check_file
from rag_infer.knowledge.recall import DECISIVE, HeldOut, decisive, hold_out, measure
from rag_infer.knowledge.snapshots import (
    Hold,
    file_sha256,
    holding,
    new_name,
    read_manifest,
    unfinished,
    write_manifest,
)
from rag_infer.knowledge.vectors import Vectors

SNAPSHOTS = "hnsw"
INDEX = "index.bin"

# hnswlib cannot be stopped while it adds; even the largest graph takes this many in about a second.
ROWS_PER_ADD = 512
# Links per element and candidates while building: the next is tried where one finds too little.
GRAPHS = ((32, 200), (48, 400), (64, 800))
# The search is widened until it finds this share of the nearest, or is this wide.
RECALL_WANTED = 0.98
SMALLEST_EF, LARGEST_EF = 128, 1024


@dataclass(frozen=True, kw_only=True)
class SnapshotManifest:
    """What a snapshot is.

    Attributes:
        generation, rows: the vectors it covers: rows below ``rows`` that were alive.
        elements: how many these are.
        dim: their width.
        m, ef_construction, ef: parameters of the graph and of the search.
        recall: as `recall.measure` gives it.
        recall_queries, recall_source: number of held-out queries, and whether they were "given" or "stored".
        sha256, size: of ``index.bin``.
    """

    generation: int
    rows: int
    elements: int
    dim: int
    m: int = GRAPHS[0][0]
    ef_construction: int = GRAPHS[0][1]
    ef: int = SMALLEST_EF
    recall: dict[str, float] = field(default_factory=dict)
    recall_queries: int = 0
    recall_source: str = ""
    sha256: str = ""
    size: int = 0


class Snapshot:
    """A loaded index. `nearest` may be called from several threads at once."""

    def __init__(self, name: str, manifest: SnapshotManifest, index: Any, held: Hold | None = None) -> None:
        self.name = name
        self.manifest = manifest
        self._index = index
        self._held = held

    def nearest(
        self, queries: NDArray[np.float32], count: int, *, threads: int = 1
    ) -> NDArray[np.int64] | None:
        """Rows near to each query, int64 ``[queries, count]``, or None where the graph does not reach so many."""
        if not 1 <= count <= self.manifest.elements:
            raise ValueError(f"count must be from 1 to {self.manifest.elements}, got {count}")
        if queries.ndim != 2 or queries.shape[1] != self.manifest.dim or not np.isfinite(queries).all():
            raise ValueError(f"queries must be finite and of width {self.manifest.dim}")
        if not len(queries):
            return np.empty((0, count), dtype=np.int64)
        try:
            labels, _ = self._index.knn_query(queries, k=count, num_threads=max(1, threads))
        except RuntimeError:  # "Cannot return the results in a contiguous 2D array"
            return None
        return np.asarray(labels).view(np.int64)

    def release(self) -> None:
        """Let others remove it. What is loaded stays loaded."""
        if self._held is not None:
            self._held.release()


def build_snapshot(
    folder: Path,
    vectors: Vectors,
    live: NDArray[np.bool_],
    *,
    generation: int,
    dim: int,
    min_recall: float = 0.0,
    queries: NDArray[np.float32] | None = None,
    threads: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[str, str]:
    """Index the live rows, measure what the index finds, and write an unfinished snapshot (see `snapshots`).

    Args:
        folder: where snapshots lie.
        vectors: all vectors.
        live: bool ``[rows]``; at least one is true.
        generation, dim: of the vectors.
        min_recall: larger graphs are made until one finds this share of the 10 nearest.
        queries: float32 ``[queries, dim]`` to measure with, or None to draw stored vectors.
        threads: hnswlib's.
        on_progress: called with the number of rows newly added, and with 0 between other steps; may raise to stop.

    Returns:
        The snapshot's name and the sha256 of its manifest. It is on the disk, and to be published or discarded.

    Raises:
        RecallError: the largest graph finds too few. Nothing is written.
        KnowledgeBaseError: it cannot be written.
    """
    base = SnapshotManifest(generation=generation, rows=len(live), elements=int(live.sum()), dim=dim)
    held_out = hold_out(vectors, live, dim=dim, queries=queries, threads=threads)
    if on_progress is not None:
        on_progress(0)
    tried = []
    for m, ef_construction in GRAPHS:
        manifest = replace(base, m=m, ef_construction=ef_construction)
        index = _graph(manifest, vectors, live, threads, on_progress)
        measured = partial(_measured, manifest, index, held_out, vectors, threads=threads)
        manifest = _tuned(manifest, measured, wanted=max(min_recall, RECALL_WANTED), on_progress=on_progress)
        if decisive(manifest.recall) >= min_recall:
            return _write(folder, manifest, index)
        tried.append(f"{decisive(manifest.recall):.3f} with M={m}, efConstruction={ef_construction}")
    raise RecallError(
        f"no graph finds {min_recall:g} of the {DECISIVE} nearest of {len(held_out.queries)} held-out queries: "
        f"{'; '.join(tried)}; lower min_recall, or search exactly"
    )


def load_snapshot(folder: Path, name: str, manifest_sha256: str, *, dim: int) -> Snapshot:
    """Load a snapshot after checking it.

    Raises:
        CorruptIndexError: it is not as it was written.
    """
    with holding(folder / name) as held:
        manifest = check_snapshot(folder, name, manifest_sha256, dim=dim)
        index = _empty_index(dim)
        try:
            index.load_index(str(folder / name / INDEX), max_elements=manifest.elements)
        except RuntimeError as error:
            raise CorruptIndexError(f"{folder / name / INDEX} cannot be loaded: {error}") from error
        index.set_ef(manifest.ef)  # load_index forgets it
        return Snapshot(name, manifest, index, held)


def check_snapshot(folder: Path, name: str, manifest_sha256: str, *, dim: int) -> SnapshotManifest:
    """The manifest of a snapshot whose files are as they were written.

    Raises:
        CorruptIndexError: a file is missing, altered or malformed.
    """
    found = read_manifest(folder / name, manifest_sha256)
    index = folder / name / INDEX
    try:
        manifest = SnapshotManifest(**found)
        sha256, size = file_sha256(index), index.stat().st_size
    except (OSError, TypeError) as error:
        raise CorruptIndexError(f"snapshot {folder / name} cannot be read: {error}") from error
    if sha256 != manifest.sha256:
        raise CorruptIndexError(
            f"{index} has {size} bytes and sha256 {sha256}, expected {manifest.size} and {manifest.sha256}"
        )
    if manifest.dim != dim:
        raise CorruptIndexError(f"{index} has vectors of {manifest.dim}, expected {dim}")
    check_file(index, dim=dim, elements=manifest.elements, rows=manifest.rows)
    return manifest


def _empty_index(dim: int) -> Any:
    import hnswlib

    # Vectors of cosine encoders are stored with length 1, so that the inner product serves both.
    return hnswlib.Index(space="ip", dim=dim)


def _graph(
    manifest: SnapshotManifest,
    vectors: Vectors,
    live: NDArray[np.bool_],
    threads: int,
    on_progress: Callable[[int], None] | None,
) -> Any:
    """An index of the live rows."""
    index = _empty_index(manifest.dim)
    index.init_index(
        max_elements=manifest.elements, M=manifest.m, ef_construction=manifest.ef_construction, random_seed=0
    )
    for start, block in vectors.slices():
        rows = start + np.flatnonzero(live[start : start + len(block)])
        for at in range(0, len(rows), ROWS_PER_ADD):
            chunk = rows[at : at + ROWS_PER_ADD]
            index.add_items(block[chunk - start], chunk, num_threads=max(1, threads))
            if on_progress is not None:
                on_progress(len(chunk))
    return index


def _tuned(
    manifest: SnapshotManifest,
    measured: Callable[[int], SnapshotManifest],
    *,
    wanted: float,
    on_progress: Callable[[int], None] | None,
) -> SnapshotManifest:
    """The manifest with the smallest ef that reaches the recall wanted, or with `LARGEST_EF`."""
    ef = manifest.ef
    while True:
        found = measured(ef)
        if on_progress is not None:
            on_progress(0)
        if decisive(found.recall) >= wanted or ef >= LARGEST_EF:
            return found
        ef *= 2


def _measured(
    manifest: SnapshotManifest, index: Any, held_out: HeldOut, vectors: Vectors, ef: int, *, threads: int
) -> SnapshotManifest:
    """The manifest with this ef and the recall that it gives."""
    index.set_ef(ef)
    snapshot = Snapshot("", manifest, index)
    recall = measure(
        held_out, vectors, lambda q, count: snapshot.nearest(q, count, threads=threads), threads=threads
    )
    return replace(
        manifest, ef=ef, recall=recall, recall_queries=len(held_out.queries), recall_source=held_out.source
    )


def _write(folder: Path, manifest: SnapshotManifest, index: Any) -> tuple[str, str]:
    name = new_name(manifest.generation, manifest.rows)
    with unfinished(folder, name) as path:
        file = path / INDEX
        index.save_index(str(file))
        # save_index returns normally when the disk is full: only the size tells.
        size, expected = file.stat().st_size, index.index_file_size()
        if size != expected:
            raise OSError(f"{size:,} of {expected:,} bytes written: is the disk full?")
        written = replace(manifest, sha256=file_sha256(file, sync=True), size=size)
        return name, write_manifest(path, asdict(written))
