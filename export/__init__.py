"""Checkpoints to bundles. Needs PyTorch, transformers and optimum (``pip install rag_infer[export]``); the runtime
never imports this package.

>>> from rag_infer.export import export_bundle
>>> export_bundle.__module__
'rag_infer.export.bundle_writer'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag_infer.export.bundle_writer import export_bundle
    from rag_infer.export.reverify import reverify_bundle

__all__ = ["export_bundle", "reverify_bundle"]

_HOMES = {"export_bundle": "bundle_writer", "reverify_bundle": "reverify"}


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import; the demo's stages that need none of it should not wait.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"rag_infer.export.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'rag_infer.export' has no attribute {name!r}")
