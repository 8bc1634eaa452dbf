"""Qdrant's filters against the plain meaning of conditions: never too strict, and exact where they say so.

The filters are applied by qdrant-client's own local mode: no package carries the server.
"""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from rag_infer.knowledge import Passage
from rag_infer.knowledge.backends.qdrant_conditions import to_filter
from rag_infer.knowledge.backends.qdrant_payload import to_payload
from rag_infer.knowledge.conditions import All, Compare, Condition, Equals, Not, matches
from tests.knowledge.backends.metadata import CONDITIONS, METADATA


def let_through(condition: Condition, entries: list[dict[str, Any]]) -> list[bool]:
    client = QdrantClient(":memory:")
    client.create_collection("c", vectors_config=models.VectorParams(size=1, distance=models.Distance.DOT))
    points = [
        models.PointStruct(
            id=i, vector=[1.0], payload=to_payload(Passage(str(i), "text", metadata=entry), b"", i)
        )
        for i, entry in enumerate(entries)
    ]
    client.upsert("c", points)
    found, _ = client.scroll("c", scroll_filter=to_filter(condition).filter, limit=len(entries))
    ids = {point.id for point in found}
    return [i in ids for i in range(len(entries))]


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(condition=CONDITIONS, entries=st.lists(METADATA, min_size=1, max_size=6))
def test_a_filter_lets_through_what_fulfils_the_condition(
    condition: Condition, entries: list[dict[str, Any]]
) -> None:
    expected = [matches(condition, e) for e in entries]
    found = let_through(condition, entries)
    if to_filter(condition).exact:
        assert found == expected
    else:
        assert all(let for let, wanted in zip(found, expected, strict=True) if wanted)


@pytest.mark.parametrize(
    ("condition", "exact"),
    [
        (Equals("a", {"b": [1.0]}), True),
        (Not(Equals("a", 1)), True),
        (Compare("a", "<", 5), False),
        (Not(Compare("a", "<", 5)), False),
        (All((Equals("a", 1), Compare("b", ">", "x"))), False),
    ],
)
def test_what_is_exact(condition: Condition, exact: bool) -> None:
    assert to_filter(condition).exact is exact
