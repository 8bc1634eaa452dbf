"""Where the demo keeps its bundle and knowledge base: what verbs use when none is named."""

from __future__ import annotations

import os
from pathlib import Path

from rag_infer.errors import RagInferError


def cache_folder() -> Path:
    """``$RAG_INFER_CACHE``, default ``~/.cache/rag_infer`` (below ``$XDG_CACHE_HOME`` where that is set)."""
    named = os.environ.get("RAG_INFER_CACHE")
    if named:
        return Path(named).expanduser()
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user) if user else Path.home() / ".cache") / "rag_infer"


def default_bundle() -> Path:
    """The demo's bundle.

    Raises:
        RagInferError: the demo has not been run.
    """
    return _existing(cache_folder() / "demo" / "bundle", "--bundle")


def default_knowledge_base() -> Path:
    """The demo's knowledge base.

    Raises:
        RagInferError: the demo has not been run.
    """
    return _existing(cache_folder() / "demo" / "kb", "--kb")


def _existing(path: Path, option: str) -> Path:
    if not path.is_dir():
        raise RagInferError(f"no {option} named, and the demo's at {path} does not exist: run 'make demo'")
    return path
