"""The approximate index: hnswlib behind a guard. It only proposes rows; their scores are computed elsewhere.

A snapshot is a folder that is written once: ``index.bin`` and ``manifest.json``, which has the index's sha256.
The record names the snapshot and has the manifest's sha256, so that either both are as written or none is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge.hnsw_file import check_file
from rag_infer.knowledge.vectors import Vectors, sync_folder

SNAPSHOTS = "hnsw"
INDEX, MANIFEST = "index.bin", "manifest.json"

ROWS_PER_ADD = 4096
RECALL_K, RECALL_QUERIES, RECALL_WANTED = 10, 100, 0.98
LARGEST_EF = 1024


@dataclass(frozen=True, kw_only=True)
class SnapshotManifest:
    """What a snapshot is.

    Attributes:
        generation, rows: the vectors it covers: rows below ``rows`` that were alive.
        elements: how many these are.
        dim: their width.
        m, ef_construction, ef: parameters of the graph and of the search.
        recall: share of the 10 nearest that the graph finds, the mean over ``recall_queries`` stored vectors.
        sha256, size: of ``index.bin``.
    """

    generation: int
    rows: int
    elements: int
    dim: int
    m: int = 32
    ef_construction: int = 200
    ef: int = 128
    recall: float = 0.0
    recall_queries: int = 0
    sha256: str = ""
    size: int = 0


class Snapshot:
    """A loaded index. `nearest` may be called from several threads at once."""

    def __init__(self, name: str, manifest: SnapshotManifest, index: Any) -> None:
        self.name = name
        self.manifest = manifest
        self._index = index

    def nearest(
        self, queries: NDArray[np.float32], count: int, *, threads: int = 1
    ) -> NDArray[np.int64] | None:
        """Rows near to each query, int64 ``[queries, count]``, or None where the graph does not reach so many."""
        if not 1 <= count <= self.manifest.elements:
            raise ValueError(f"count must be from 1 to {self.manifest.elements}, got {count}")
        if queries.shape[1] != self.manifest.dim or not np.isfinite(queries).all():
            raise ValueError(f"queries must be finite and of width {self.manifest.dim}")
        try:
            labels, _ = self._index.knn_query(queries, k=count, num_threads=threads)
        except RuntimeError:  # "Cannot return the results in a contiguous 2D array"
            return None
        return np.asarray(labels).astype(np.int64)


def build_snapshot(
    folder: Path,
    vectors: Vectors,
    live: NDArray[np.bool_],
    *,
    generation: int,
    dim: int,
    threads: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[str, str]:
    """Index the live rows and write the snapshot.

    Args:
        folder: where snapshots lie.
        vectors: all vectors.
        live: bool ``[rows]``; at least one is true.
        generation, dim: of the vectors.
        threads: hnswlib's.
        on_progress: called with the number of rows newly added.

    Returns:
        The snapshot's name and the sha256 of its manifest. It is on the disk.

    Raises:
        KnowledgeBaseError: it cannot be written.
    """
    manifest = SnapshotManifest(generation=generation, rows=len(live), elements=int(live.sum()), dim=dim)
    index = _new_index(manifest)
    for start, block in vectors.slices():
        rows = start + np.flatnonzero(live[start : start + len(block)])
        for at in range(0, len(rows), ROWS_PER_ADD):
            chunk = rows[at : at + ROWS_PER_ADD]
            index.add_items(block[chunk - start], chunk, num_threads=threads)
            if on_progress is not None:
                on_progress(len(chunk))
    snapshot = _tuned(Snapshot("", manifest, index), vectors, live, threads)
    name = f"{generation:06d}-{len(live):010d}-{uuid.uuid4().hex[:8]}"
    try:
        return name, _write(folder, name, snapshot.manifest, index)
    except OSError as error:
        shutil.rmtree(folder / (name + ".tmp"), ignore_errors=True)
        raise KnowledgeBaseError(
            f"{folder / name} could not be written ({error.strerror or error}); search is exact without it"
        ) from error


def load_snapshot(folder: Path, name: str, manifest_sha256: str, *, dim: int) -> Snapshot:
    """Load a snapshot after checking it.

    Raises:
        CorruptIndexError: it is not as it was written.
    """
    manifest = check_snapshot(folder, name, manifest_sha256, dim=dim)
    index = _empty_index(dim)
    try:
        index.load_index(str(folder / name / INDEX), max_elements=manifest.elements)
    except RuntimeError as error:
        raise CorruptIndexError(f"{folder / name / INDEX} cannot be loaded: {error}") from error
    index.set_ef(manifest.ef)  # load_index forgets it
    return Snapshot(name, manifest, index)


def check_snapshot(folder: Path, name: str, manifest_sha256: str, *, dim: int) -> SnapshotManifest:
    """The manifest of a snapshot whose files are as they were written.

    Raises:
        CorruptIndexError: a file is missing, altered or malformed.
    """
    path = folder / name / MANIFEST
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest_sha256:
            raise CorruptIndexError(f"{path} is not the manifest that was written")
        manifest = SnapshotManifest(**json.loads(data))
        index = folder / name / INDEX
        with index.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CorruptIndexError(f"snapshot {folder / name} cannot be read: {error}") from error
    if found != manifest.sha256:
        raise CorruptIndexError(
            f"{index} has {index.stat().st_size} bytes and sha256 {found}, "
            f"expected {manifest.size} and {manifest.sha256}"
        )
    if manifest.dim != dim:
        raise CorruptIndexError(f"{index} has vectors of {manifest.dim}, expected {dim}")
    check_file(index, dim=dim, elements=manifest.elements, rows=manifest.rows)
    return manifest


def remove_others(folder: Path, name: str) -> None:
    """Remove all snapshots but one. Readers that have loaded them are not disturbed."""
    for path in folder.iterdir():
        if path.name != name:
            shutil.rmtree(path, ignore_errors=True)


def _empty_index(dim: int) -> Any:
    import hnswlib

    # Vectors of cosine encoders are stored with length 1, so that the inner product serves both.
    return hnswlib.Index(space="ip", dim=dim)


def _new_index(manifest: SnapshotManifest) -> Any:
    index = _empty_index(manifest.dim)
    index.init_index(
        max_elements=manifest.elements, M=manifest.m, ef_construction=manifest.ef_construction, random_seed=0
    )
    index.set_ef(manifest.ef)
    return index


def _tuned(snapshot: Snapshot, vectors: Vectors, live: NDArray[np.bool_], threads: int) -> Snapshot:
    """The snapshot with an ef that reaches `RECALL_WANTED`, where one below `LARGEST_EF` does."""
    manifest = snapshot.manifest
    rows = np.flatnonzero(live)
    chosen = np.random.default_rng(0).permutation(rows)[:RECALL_QUERIES]
    queries = vectors.gather(np.sort(chosen), manifest.dim)
    k = min(RECALL_K, manifest.elements)
    _, exact = vectors.topk(queries, k, mask=live, threads=threads)
    ef = manifest.ef
    while True:
        snapshot._index.set_ef(ef)
        found = snapshot.nearest(queries, k, threads=threads)
        hits = 0.0 if found is None else _recall(exact, found)
        if hits >= RECALL_WANTED or ef >= LARGEST_EF:
            break
        ef *= 2
    measured = {**asdict(manifest), "ef": ef, "recall": hits, "recall_queries": len(queries)}
    return Snapshot(snapshot.name, SnapshotManifest(**measured), snapshot._index)


def _recall(exact: NDArray[np.int64], found: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(e, f).mean() for e, f in zip(exact, found, strict=True)]))


def _write(folder: Path, name: str, manifest: SnapshotManifest, index: Any) -> str:
    temporary = folder / (name + ".tmp")
    temporary.mkdir()
    path = temporary / INDEX
    index.save_index(str(path))
    # save_index returns normally when the disk is full: only the size tells.
    size, expected = path.stat().st_size, index.index_file_size()
    if size != expected:
        raise OSError(f"{size:,} of {expected:,} bytes written: is the disk full?")
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    data = json.dumps({**asdict(manifest), "sha256": digest, "size": size}, indent=2).encode()
    with (temporary / MANIFEST).open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(temporary)
    temporary.rename(folder / name)
    sync_folder(folder)
    return hashlib.sha256(data).hexdigest()
