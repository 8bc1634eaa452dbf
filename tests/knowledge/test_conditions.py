"""What ``where`` may say, by hand-written tables."""

from __future__ import annotations

from typing import Any

import pytest

from rag_infer.knowledge.conditions import matches, parse


@pytest.mark.parametrize(
    ("where", "metadata", "expected"),
    [
        ({}, {}, True),
        ({"a": 2020}, {"a": 2020.0}, True),
        ({"a": True}, {"a": 1}, False),
        ({"a": None}, {}, False),
        ({"a": {"b": 1}}, {"a": {"b": 1}}, True),
        ({"a": {"$eq": {"$b": 1}}}, {"a": {"$b": 1}}, True),
        ({"a": {"$gte": 1, "$lt": 2}}, {"a": 2}, False),
        ({"a": {"$gt": 0}}, {"a": True}, False),
        ({"a": {"$gt": "Z"}}, {"a": "a"}, True),
        ({"a": {"$gt": "0"}}, {"a": 5}, False),
        ({"a": {"$in": []}}, {"a": 1}, False),
        ({"a": {"$nin": [1, 2]}}, {}, True),
        ({"a": {"$contains": 1}}, {"a": [0, 1.0]}, True),
        ({"a": {"$contains": "b"}}, {"a": "abc"}, False),
        ({"a": {"$not": {"$gt": 3}}}, {"a": 3}, True),
        ({"$or": []}, {}, False),
        ({"$and": []}, {}, True),
        ({"$not": {"a": 1, "b": 2}}, {"a": 1}, True),
    ],
)
def test_meaning(where: dict[str, Any], metadata: dict[str, Any], expected: bool) -> None:
    assert matches(parse(where), metadata) is expected


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (["a"], TypeError, "where must be a mapping of metadata fields, got list"),
        ({1: 2}, TypeError, "a metadata field's name must be a string, got 1"),
        ({"$nor": []}, ValueError, r"unknown operator '\$nor' in where"),
        ({"a": {"$regex": "x"}}, ValueError, r"unknown operator '\$regex' on 'a'"),
        ({"a": {"$in": "abc"}}, TypeError, r"\$in on 'a' takes a list, got str"),
        ({"a": {"$gt": None}}, TypeError, r"\$gt on 'a' takes a number or a string, got NoneType"),
        ({"a": {"$gt": float("nan")}}, ValueError, "which JSON cannot hold"),
        ({"a": {"$exists": 1}}, TypeError, r"\$exists on 'a' takes True or False, got 1"),
        ({"$and": {"a": 1}}, TypeError, r"\$and takes a list, got dict"),
        ({"$or": [1]}, TypeError, r"\$or takes mappings of metadata fields, got int"),
        ({"a": {1}}, TypeError, "a set"),
    ],
)
def test_refused(where: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse(where)


def test_endless_nesting_is_refused() -> None:
    where: dict[str, Any] = {"a": 1}
    for _ in range(40):
        where = {"$not": where}
    with pytest.raises(ValueError, match="nested more than 32 deep"):
        parse(where)
