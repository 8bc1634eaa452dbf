"""What is derived from the vectors to search them fast: loading it, keeping it from falling behind, mending it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError, RagInferWarning
from rag_infer.knowledge.background import Background
from rag_infer.knowledge.hnsw import Snapshot, check_snapshot, load_snapshot
from rag_infer.knowledge.loading import Loader
from rag_infer.knowledge.rebuild import Rebuild
from rag_infer.knowledge.scan import Scan, check_scan, load_scan
from rag_infer.knowledge.schema import State
from rag_infer.knowledge.view import Derived, View

KINDS = ("auto", "exact", "hnsw")


def check_kind(kind: str) -> str:
    """The kind of index.

    Raises:
        ValueError: an unknown one.
    """
    if kind not in KINDS:
        raise ValueError(f"index must be one of {', '.join(KINDS)}, got {kind!r}")
    return kind


def check_min_recall(share: float) -> float:
    """The least recall of an HNSW graph.

    Raises:
        ValueError: not from 0 to 1.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ValueError(f"min_recall must be from 0 to 1, got {share!r}")
    return float(share)


class Index:
    """The snapshots that searches use, of the HNSW graph and of the codes.

    Args:
        rebuild: makes them anew.
        background: whether to renew what is behind in a thread, after each `changed`.
    """

    def __init__(self, rebuild: Rebuild, *, background: bool = False) -> None:
        self.rebuild = rebuild
        self._writer = writer = rebuild.writer
        self._dim = dim = rebuild.dim
        self._graphs: Loader[Snapshot] = Loader(
            writer.snapshots,
            lambda name, sha256: load_snapshot(writer.snapshots, name, sha256, dim=dim),
        )
        self._scans: Loader[Scan] = Loader(
            writer.scans,
            lambda name, sha256: load_scan(writer.scans, name, sha256, dim=dim),
        )
        # Not a method of this object: the two would hold each other, and with them the mapped files, past `close`.
        rebuild.swapped = {"snapshot": self._graphs.drop, "scan": self._scans.drop}
        self._background = Background(self._renew) if background else None

    def of(self, view: View) -> Derived:
        """What to search a view with. What is missing, or still being loaded, only makes the search slower.

        Corrupt snapshots are made anew from the record, with a `RagInferWarning`.
        """
        state = view.state
        return Derived(
            self._graphs.get(
                state.snapshot, state.snapshot_sha256, state, partial(self._replace_corrupt, "snapshot")
            ),
            self._scans.get(state.scan, state.scan_sha256, state, partial(self._replace_corrupt, "scan")),
        )

    def changed(self) -> None:
        """Passages have been written: renew in the background what has fallen behind, where asked for."""
        if self._background is not None:
            self._background.notice()

    def close(self) -> None:
        """Stop building and loading in the background, and let go of what is loaded."""
        if self._background is not None:
            self._background.close()
            self._background = None
        self._graphs.close()
        self._scans.close()

    def repair(self) -> None:
        """Make those snapshots anew that are not as they were written."""
        state = self._writer.state()
        if state.scan and not self._whole(check_scan, self._writer.scans, "scan", state):
            self.rebuild.refresh(force="scan")
        if state.snapshot and not self._whole(check_snapshot, self._writer.snapshots, "snapshot", state):
            self.rebuild.refresh(force="snapshot")

    def _renew(self, check: Callable[[], None]) -> None:
        """The work of the background thread."""
        self.rebuild.refresh_where_it_helps(lambda _: check())

    def _whole(self, check: Callable[..., object], folder: Path, kind: str, state: State) -> bool:
        try:
            check(folder, getattr(state, kind), getattr(state, f"{kind}_sha256"), dim=self._dim)
        except CorruptIndexError:
            return False
        return True

    def _replace_corrupt(self, kind: str, name: str, error: CorruptIndexError) -> None:
        if getattr(self._writer.state(), kind) != name:
            return  # a writer has replaced it since this search began
        try:
            with self.rebuild.building.hold(timeout=0):
                with self._writer.session(timeout=0):
                    pass  # where another writes, the search does not wait for it
                self.rebuild.refresh(force=kind)
            outcome = "made anew from the stored vectors"
        except KnowledgeBaseError as reason:
            outcome = f"not used, search is exact: it could not be made anew ({reason})"
        warnings.warn(f"corrupt index {outcome}: {error}", RagInferWarning, stacklevel=6)
