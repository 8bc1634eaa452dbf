"""Every example in a docstring runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import rag_infer

MODULES = sorted(
    m.name for m in pkgutil.walk_packages(rag_infer.__path__, "rag_infer.") if "__main__" not in m.name
)
MODULES_EXPORT = [
    m.name
    for m in pkgutil.walk_packages(importlib.import_module("rag_infer.export").__path__, "rag_infer.export.")
    if "__main__" not in m.name
]


@pytest.mark.parametrize("name", sorted({*MODULES, *MODULES_EXPORT, "rag_infer"}))
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
