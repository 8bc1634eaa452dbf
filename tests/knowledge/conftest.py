"""Fixtures of the knowledge base's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rag_infer.knowledge import KnowledgeBase
from tests.knowledge.encoders import HashingEncoder


@pytest.fixture
def encoder() -> HashingEncoder:
    return HashingEncoder()


@pytest.fixture
def kb(tmp_path: Path, encoder: HashingEncoder) -> Iterator[KnowledgeBase]:
    """An empty knowledge base whose files hold 8 vectors each."""
    with KnowledgeBase.create(tmp_path / "kb", encoder=encoder, rows_per_segment=8, threads=1) as made:
        yield made
