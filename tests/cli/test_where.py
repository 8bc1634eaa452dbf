"""What --where takes."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from rag_infer.cli.options import where


def read(*conditions: str) -> dict[str, Any] | None:
    return where(argparse.Namespace(where=list(conditions)))


def test_conditions() -> None:
    assert read() is None
    assert read("topic=Arts") == {"topic": "Arts"}
    # A number, or the same digits stored as text.
    assert read("year=2020") == {"year": {"$in": [2020, "2020"]}}
    assert read('tags=["a"]') == {"tags": ["a"]}
    assert read('{"year": {"$gte": 1900}}') == {"year": {"$gte": 1900}}
    assert read("topic=Arts", '{"$not": {"year": 1}}') == {"$and": [{"topic": "Arts"}, {"$not": {"year": 1}}]}


@pytest.mark.parametrize(
    ("text", "message"), [("topic", "FIELD=VALUE"), ("=x", "FIELD=VALUE"), ("{a", "no JSON")]
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(text)
