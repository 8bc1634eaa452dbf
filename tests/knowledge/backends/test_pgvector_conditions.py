"""Conditions in SQL against their plain meaning, on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import psycopg
import pytest
from hypothesis import strategies as st

from rag_infer.knowledge import conditions
from rag_infer.knowledge.backends.pgvector_conditions import fields_json, sized_sql, to_sql
from tests.knowledge.backends.metadata import CONDITIONS, METADATA
from tests.knowledge.backends.server import PostgresServer


@pytest.fixture(scope="module")
def connection(postgres: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres.address("unused").partition("&")[0], autocommit=True) as opened:
        yield opened


def in_sql(
    connection: psycopg.Connection[Any], condition: conditions.Condition, entries: list[dict[str, Any]]
) -> list[bool]:
    sql, parameters = to_sql(condition)
    query = (
        f"SELECT {sql} FROM unnest(%s::jsonb[]) WITH ORDINALITY AS rows (fields, position) ORDER BY position"
    )
    return [
        found
        for (found,) in connection.execute(query, [*parameters, [fields_json(e) for e in entries]])  # type: ignore[arg-type]
    ]


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(condition=CONDITIONS, entries=st.lists(METADATA, min_size=1, max_size=8))
def test_sql_means_what_matches_does(
    connection: psycopg.Connection[Any], condition: conditions.Condition, entries: list[dict[str, Any]]
) -> None:
    assert in_sql(connection, condition, entries) == [conditions.matches(condition, e) for e in entries]


def test_many_values_of_a_field(connection: psycopg.Connection[Any]) -> None:
    values = [*range(120), 0.5, None, True, "a", "é", [1], {"b": 1}, "a\0"]
    mixed = conditions.AnyOf(
        (
            *(conditions.Equals("a", value) for value in values),
            conditions.Equals("b", 1),
            conditions.Exists("c"),
        )
    )
    entries = [
        {"a": value} for value in [7.0, 120, "120", 0.5, None, False, "é", [1], [1, 2], {"b": 1.0}, {}]
    ]
    entries += [{}, {"b": 1}, {"c": None}]
    for condition in (mixed, conditions.Not(mixed)):
        assert in_sql(connection, condition, entries) == [conditions.matches(condition, e) for e in entries]
    with pytest.raises(ValueError, match="PostgreSQL takes 60,000: use"):
        sized_sql(conditions.AnyOf(tuple(conditions.Equals(str(i), i) for i in range(60_001))))


@pytest.mark.parametrize(
    ("condition", "metadata"),
    [
        (conditions.Equals("a", 1), {"a": True}),
        (conditions.Equals("a", 2020), {"a": 2020.0}),
        (conditions.Equals("a", [1]), {"a": [1, 2]}),
        (conditions.Equals("a", {"b": 1}), {"a": {"b": 1, "c": 2}}),
        (conditions.Equals("a", None), {}),
        (conditions.Equals("a", None), {"a": None}),
        (conditions.Equals("a", 10**308), {"a": 1e308}),
        (conditions.Contains("a", 1), {"a": 1}),
        (conditions.Contains("a", [1]), {"a": [[1, 2]]}),
        (conditions.Contains("a", [1]), {"a": [[1.0]]}),
        (conditions.Not(conditions.Compare("a", "<", 5)), {"a": "text"}),
        (conditions.Compare("a", "<", "b"), {"a": "B"}),
        (conditions.Compare("a", ">", "\uffff"), {"a": "🦆"}),
        (conditions.Compare("a", "<=", "b\0"), {"a": "b"}),
        (conditions.Compare("a", ">=", "b\0"), {"a": "b"}),
        (conditions.All(()), {}),
        (conditions.AnyOf(()), {}),
    ],
)
def test_the_cases_that_databases_see_differently(
    connection: psycopg.Connection[Any], condition: conditions.Condition, metadata: dict[str, Any]
) -> None:
    assert in_sql(connection, condition, [metadata]) == [conditions.matches(condition, metadata)]
