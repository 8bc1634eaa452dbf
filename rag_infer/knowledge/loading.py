"""Which snapshot of one kind this process has loaded, and loading the next one without holding up searches."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from rag_infer.errors import CorruptIndexError, RagInferWarning
from rag_infer.knowledge.schema import State

# To check and load so much takes about a tenth of a second; larger ones are loaded beside the searches.
LOAD_AT_ONCE_BYTES = 64 * 1024 * 1024


class Manifest(Protocol):
    """What every snapshot's manifest says."""

    @property
    def generation(self) -> int: ...  # noqa: D102
    @property
    def rows(self) -> int: ...  # noqa: D102


class Loadable(Protocol):
    """A loaded snapshot."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def manifest(self) -> Manifest: ...  # noqa: D102
    def release(self) -> None: ...  # noqa: D102


T = TypeVar("T", bound=Loadable)
Corrupt = Callable[[str, CorruptIndexError], None]


class Loader(Generic[T]):
    """The snapshot of one kind that searches use; searches that run keep the one they began with.

    Args:
        folder: where snapshots of the kind lie.
        load: loads one, given its name and the sha256 of its manifest; raises `CorruptIndexError`.
    """

    def __init__(self, folder: Path, load: Callable[[str, str], T]) -> None:
        self._folder = folder
        self._load = load
        self._lock = threading.Lock()
        self._loaded: T | None = None
        self._refused = ""
        self._loading = ""
        self._thread: threading.Thread | None = None
        self._closed = False

    def get(self, name: str, sha256: str, state: State, corrupt: Corrupt) -> T | None:
        """The snapshot of a name, or an older one that fits the state while the named one is being loaded.

        Args:
            name, sha256: of the snapshot and its manifest; "" for none.
            state: what is searched.
            corrupt: told the name and the error of one that could not be loaded, once for each.
        """
        if not name:
            return None
        with self._lock:
            loaded = self._loaded
            if loaded is not None and loaded.name == name:
                return loaded
            if name in (self._refused, self._loading) or self._closed:
                return self._fitting(state)
            if self._size(name) > LOAD_AT_ONCE_BYTES:
                self._loading = name
                self._thread = threading.Thread(
                    target=self._load_beside, args=(name, sha256, corrupt), name=f"load {name}", daemon=True
                )
                self._thread.start()
                return self._fitting(state)
            try:
                self._loaded = self._load(name, sha256)
                return self._loaded
            except CorruptIndexError as error:
                self._refused = name
                reason = error
        corrupt(name, reason)
        return None

    def drop(self) -> None:
        """Let go of what is loaded: another is wanted now, or none."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.release()

    def wait(self) -> None:
        """Wait for what is being loaded."""
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def close(self) -> None:
        """Let go of everything; what is being loaded is waited for."""
        with self._lock:
            self._closed = True
        self.wait()
        self.drop()

    def _fitting(self, state: State) -> T | None:
        """What is loaded, where all that it covers is in the state: rows are only added, within a generation."""
        loaded = self._loaded
        if loaded is None:
            return None
        manifest = loaded.manifest
        return loaded if manifest.generation == state.generation and manifest.rows <= state.rows else None

    def _size(self, name: str) -> int:
        try:
            return sum(path.stat().st_size for path in (self._folder / name).iterdir())
        except OSError:
            return 0  # gone: loading it says so

    def _load_beside(self, name: str, sha256: str, corrupt: Corrupt) -> None:
        try:
            loaded = self._load(name, sha256)
        except CorruptIndexError as error:
            with self._lock:
                self._refused, self._loading = name, ""
            corrupt(name, error)
            return
        except Exception as error:
            with self._lock:
                self._refused, self._loading = name, ""
            warnings.warn(f"index not used, search is exact: {error}", RagInferWarning, stacklevel=2)
            return
        with self._lock:
            if self._loading == name:
                self._loaded, self._loading = loaded, ""
