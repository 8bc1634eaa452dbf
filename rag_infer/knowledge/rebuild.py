"""Making what is derived from the vectors anew: the HNSW graph and the codes, as settings and passages ask for.

Building takes no writer lock: it works on a view, under the build lock, so that one process builds at a time. The
writer lock is held only to swap the result in, if the rows are still those that it was built from. Whoever waits for
both takes the build lock first.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import KnowledgeBaseError, RagInferWarning, RecallError
from rag_infer.knowledge.hnsw import build_snapshot
from rag_infer.knowledge.lock import BusyError, WriterLock
from rag_infer.knowledge.recall import decisive
from rag_infer.knowledge.scan import build_scan, scan_wanted
from rag_infer.knowledge.schema import Settings, State, read_settings, write_state
from rag_infer.knowledge.snapshots import BUILD_LOCK, discard, glance_at_manifest, publish, remove_unfinished
from rag_infer.knowledge.view import View, Views
from rag_infer.knowledge.writer import Writer

# Up to here the exact search takes milliseconds.
AUTO_EXACT_PASSAGES = 100_000

# A snapshot is made anew when rows it does not cover, or covers in vain, are more than this share of it.
STALE_SHARE = 0.1

# Compacting renumbers rows: what was built meanwhile is of no use. So often in a row is it begun again.
ATTEMPTS = 3

# While another writer is waited for, whether to go on waiting is looked at so often.
SECONDS_BETWEEN_LOOKS = 1.0

Progress = Callable[[int], None]


class Rebuild:
    """Makes the snapshots of the HNSW graph and of the codes.

    Args:
        writer, views: of the knowledge base.
        dim: width of its vectors.
        threads: for building.
        timeout: seconds to wait for another process that builds.

    Attributes:
        writer, dim: as given.
        building: the lock of whoever builds.
        swapped: called when the record has come to name another "snapshot" or "scan", or none.
    """

    def __init__(
        self,
        writer: Writer,
        views: Views,
        *,
        dim: int,
        threads: int,
        timeout: float,
    ) -> None:
        self.writer = writer
        self._views = views
        self.dim = dim
        self._threads = threads
        self._timeout = timeout
        self.swapped: Mapping[str, Callable[[], None]] = {}
        self._began = 0.0  # when what is being built was begun
        lock = writer.snapshots.parent / BUILD_LOCK
        self.building = WriterLock(lock, timeout=timeout, doing="built an index for")
        self._refused_graph = (0, 0)  # generation and rows of the last one that found too little

    def refresh(
        self,
        *,
        force: str = "",
        graph: bool = True,
        queries: NDArray[np.float32] | None = None,
        on_progress: Progress | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Make, renew or drop the snapshots as the settings and the passages ask for.

        A graph that finds too few of the nearest passages is not used: a `RagInferWarning` has the numbers.

        Args:
            force: "snapshot" or "scan": make this anew even if it is not behind.
            graph: whether to look at the graph too, or at the codes alone.
            queries: float32 ``[queries, dim]`` to measure recall with; None for stored vectors.
            on_progress: called with the number of vectors newly indexed; may raise to stop.
            timeout: seconds to wait for another process that builds.

        Returns:
            Whether anything was done.

        Raises:
            KnowledgeBaseError: another process builds or writes, or the disk is full.
        """
        if self.writer.lock.mine():  # others that build may be waiting for this lock: do not wait for them
            timeout = 0
        with self.building.hold(timeout=timeout):
            self._began = time.monotonic()
            remove_unfinished(self.writer.snapshots)
            remove_unfinished(self.writer.scans)
            for _ in range(ATTEMPTS):
                with self.writer.record.reading() as connection:
                    view = self._views.at(connection)
                    settings = read_settings(connection, self.writer.record.path)
                scan = self._refresh_scan(view, settings, force=force == "scan", on_progress=on_progress)
                drawn = graph and self._refresh_graph(
                    view, settings, force=force == "snapshot", queries=queries, on_progress=on_progress
                )
                if scan is not None and drawn is not None:
                    return scan or drawn
        raise KnowledgeBaseError(
            f"{self.writer.snapshots.parent} was compacted {ATTEMPTS} times while its index was being built"
        )

    def refresh_where_it_helps(self, on_progress: Progress) -> None:
        """`refresh`, without a graph that was refused when the passages were nearly the same."""
        state = self.writer.state()
        generation, rows = self._refused_graph
        refused_again = generation == state.generation and state.rows - rows <= STALE_SHARE * rows
        self.refresh(graph=not refused_again, on_progress=on_progress)

    def manifest(self, state: State) -> dict[str, Any]:
        """What the graph's manifest says, unchecked; empty where there is none to be read."""
        return glance_at_manifest(self.writer.snapshots, state.snapshot)

    def scan_manifest(self, state: State) -> dict[str, Any]:
        """What the scan's manifest says, unchecked; empty where there is none to be read."""
        return glance_at_manifest(self.writer.scans, state.scan)

    def _refresh_scan(
        self, view: View, settings: Settings, *, force: bool, on_progress: Progress | None
    ) -> bool | None:
        """Whether anything was done; None where rows were renumbered meanwhile."""
        state = view.state
        wanted = scan_wanted(settings.scan, state.passages)
        if wanted == "float32":
            return self._swap(view, self.writer.scans, scan="", scan_sha256="") if state.scan else False
        manifest = self.scan_manifest(state)
        rows = manifest.get("rows")
        current = isinstance(rows, int) and state.rows - rows <= STALE_SHARE * rows
        if current and manifest.get("kind") == wanted and not force:
            return False
        name, sha256 = build_scan(
            self.writer.scans,
            wanted,
            view.vectors,
            generation=state.generation,
            rows=state.rows,
            dim=self.dim,
            threads=self._threads,
            on_progress=None if on_progress is None else lambda _: on_progress(0),
        )
        return self._swap(view, self.writer.scans, on_progress, scan=name, scan_sha256=sha256)

    def _refresh_graph(
        self,
        view: View,
        settings: Settings,
        *,
        force: bool,
        queries: NDArray[np.float32] | None,
        on_progress: Progress | None,
    ) -> bool | None:
        """Whether anything was done; None where rows were renumbered meanwhile."""
        state, folder = view.state, self.writer.snapshots
        if not _graph_wanted(settings.index, state.passages):
            return self._swap(view, folder, snapshot="", snapshot_sha256="") if state.snapshot else False
        manifest = self.manifest(state)
        recall = manifest.get("recall")
        poor = isinstance(recall, dict) and decisive(recall) < settings.min_recall
        unmeasured = queries is not None and manifest.get("recall_source") != "given"
        if state.snapshot and not (force or poor or unmeasured or self._stale(view)):
            return False
        try:
            name, sha256 = build_snapshot(
                folder,
                view.vectors,
                view.alive(),
                generation=state.generation,
                dim=self.dim,
                min_recall=settings.min_recall,
                queries=queries,
                threads=self._threads,
                on_progress=on_progress,
            )
        except RecallError as error:
            self._refused_graph = (state.generation, state.rows)
            warnings.warn(
                f"HNSW index refused, search stays as it was: {error}", RagInferWarning, stacklevel=4
            )
            # One that was good enough when it was made is kept; one that is known not to be is not.
            drop = bool(state.snapshot) and (poor or force)
            return self._swap(view, folder, snapshot="", snapshot_sha256="") if drop else False
        return self._swap(view, folder, on_progress, snapshot=name, snapshot_sha256=sha256)

    @contextlib.contextmanager
    def _when_free(self, on_progress: Progress | None) -> Iterator[None]:
        """Hold the writer lock; another writer is waited for as long as the building has taken."""
        deadline = time.monotonic() + max(self._timeout, time.monotonic() - self._began)
        with contextlib.ExitStack() as held:
            while True:
                try:
                    left = max(0.0, deadline - time.monotonic())
                    held.enter_context(self.writer.session(timeout=min(left, SECONDS_BETWEEN_LOOKS)))
                    break
                except BusyError:
                    if time.monotonic() > deadline:
                        raise
                    if on_progress is not None:
                        on_progress(0)  # which may raise to stop
            yield

    def _swap(
        self, view: View, folder: Path, on_progress: Progress | None = None, **names: str
    ) -> bool | None:
        """Let the record name a finished snapshot, or none; None where rows were renumbered since it was begun."""
        kind = "snapshot" if "snapshot" in names else "scan"
        name = names[kind]
        try:
            with self._when_free(on_progress):
                state = self.writer.state()
                if state.generation != view.state.generation:
                    return None
                if name:
                    publish(folder, name)
                with self.writer.record.writing() as connection:
                    write_state(connection, replace(state, **names))  # type: ignore[arg-type]
                if kind in self.swapped:
                    self.swapped[kind]()
                self.writer.clear()
        finally:
            if name:
                discard(folder, name)
        return True

    def _stale(self, view: View) -> bool:
        manifest = self.manifest(view.state)
        covered, elements = manifest.get("rows"), manifest.get("elements")
        if not isinstance(covered, int) or not isinstance(elements, int):
            return True
        dead = elements - int(np.count_nonzero(view.alive()[:covered]))
        return (view.state.rows - covered) + dead > STALE_SHARE * elements


def _graph_wanted(kind: str, passages: int) -> bool:
    return bool(passages) and (kind == "hnsw" or (kind == "auto" and passages > AUTO_EXACT_PASSAGES))
