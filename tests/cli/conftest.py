"""A small bundle that the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.knowledge.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle")
