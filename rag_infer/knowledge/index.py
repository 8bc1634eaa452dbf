"""The HNSW index of a knowledge base: when there should be one, loading it, making it anew."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError, RagInferWarning
from rag_infer.knowledge.hnsw import MANIFEST, Snapshot, build_snapshot, check_snapshot, load_snapshot
from rag_infer.knowledge.schema import State, write_state
from rag_infer.knowledge.view import View, Views
from rag_infer.knowledge.writer import Writer

KINDS = ("auto", "exact", "hnsw")

# Up to here the exact search takes milliseconds.
AUTO_EXACT_PASSAGES = 100_000

# A snapshot is made anew when rows it does not cover, or covers in vain, are more than this share of it.
STALE_SHARE = 0.1


def check_kind(kind: str) -> str:
    """The kind of index.

    Raises:
        ValueError: an unknown one.
    """
    if kind not in KINDS:
        raise ValueError(f"index must be one of {', '.join(KINDS)}, got {kind!r}")
    return kind


class Index:
    """The snapshot that searches use.

    Args:
        writer, views: of the knowledge base.
        dim: width of its vectors.
        threads: for building.
    """

    def __init__(self, writer: Writer, views: Views, *, dim: int, threads: int) -> None:
        self._writer = writer
        self._views = views
        self._dim = dim
        self._threads = threads
        self._lock = threading.Lock()
        self._loaded: Snapshot | None = None
        self._refused = ""

    def of(self, view: View) -> Snapshot | None:
        """The snapshot to search a view with, or None: then the search is exact.

        A corrupt one is made anew from the record, with a `RagInferWarning`.
        """
        name = view.state.snapshot
        if not name:
            return None
        with self._lock:
            if self._loaded is not None and self._loaded.name == name:
                return self._loaded
            if self._refused == name:
                return None
            try:
                self._loaded = load_snapshot(
                    self._writer.snapshots, name, view.state.snapshot_sha256, dim=self._dim
                )
                return self._loaded
            except CorruptIndexError as error:
                if self._writer.state().snapshot != name:
                    return None  # a writer has replaced it since this search began
                self._refused = name
                self._replace_corrupt(error)
            return None

    def refresh(
        self, kind: str, *, force: bool = False, on_progress: Callable[[int], None] | None = None
    ) -> bool:
        """Make, renew or drop the snapshot as the kind of index and the passages ask for.

        Returns:
            Whether anything was done.

        Raises:
            KnowledgeBaseError: another writer holds the lock, or the disk is full.
        """
        with self._writer.session():
            with self._writer.record.reading() as connection:
                view = self._views.at(connection)
            state = view.state
            wanted = bool(state.passages) and (
                kind == "hnsw" or (kind == "auto" and state.passages > AUTO_EXACT_PASSAGES)
            )
            if not wanted:
                return self._switch(state, "", "")
            if state.snapshot and not force and not self._stale(view):
                return False
            name, digest = build_snapshot(
                self._writer.snapshots,
                view.vectors,
                view.alive(),
                generation=state.generation,
                dim=self._dim,
                threads=self._threads,
                on_progress=on_progress,
            )
            return self._switch(state, name, digest)

    def repair(self) -> None:
        """Make the snapshot anew where it is not as it was written."""
        state = self._writer.state()
        if state.snapshot:
            try:
                check_snapshot(self._writer.snapshots, state.snapshot, state.snapshot_sha256, dim=self._dim)
            except CorruptIndexError:
                self.refresh("hnsw", force=True)

    def manifest(self, state: State) -> dict[str, Any]:
        """What the snapshot's manifest says, unchecked; empty where there is none to be read."""
        try:
            text = (self._writer.snapshots / state.snapshot / MANIFEST).read_text(encoding="utf-8")
            found = json.loads(text)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _switch(self, state: State, name: str, digest: str) -> bool:
        if state.snapshot == name:
            return False
        with self._writer.record.writing() as connection:
            write_state(connection, replace(state, snapshot=name, snapshot_sha256=digest))
        self._writer.clear()
        return True

    def _stale(self, view: View) -> bool:
        manifest = self.manifest(view.state)
        covered, elements = manifest.get("rows"), manifest.get("elements")
        if not isinstance(covered, int) or not isinstance(elements, int):
            return True
        dead = elements - int(np.count_nonzero(view.alive()[:covered]))
        return (view.state.rows - covered) + dead > STALE_SHARE * elements

    def _replace_corrupt(self, error: CorruptIndexError) -> None:
        try:
            with self._writer.session(timeout=0):
                self.refresh("hnsw", force=True)
            outcome = "made anew from the stored vectors"
        except KnowledgeBaseError as reason:
            outcome = f"not used, search is exact: it could not be made anew ({reason})"
        warnings.warn(f"corrupt index {outcome}: {error}", RagInferWarning, stacklevel=6)
