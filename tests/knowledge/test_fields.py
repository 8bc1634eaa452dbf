"""Filters looked up in the record against `conditions.matches`, which says what they mean."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from rag_infer.errors import CorruptIndexError
from rag_infer.knowledge.conditions import matches, parse
from rag_infer.knowledge.fields import check_fields, entries, field_names, fulfilling
from rag_infer.knowledge.passage import metadata_json
from rag_infer.knowledge.schema import FIELDS, PASSAGES

NAMES = st.sampled_from(["a", "b", "é"])


def large(i: int) -> int:
    """A large integer; a strategy that holds it itself has an endless name."""
    numbers = [2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 1, -(2**63) - 1, 10**400, -(10**400), int(1e300)]
    return numbers[i]


def long(last: str) -> str:
    return "x" * 600 + last


NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([0.0, -0.0, 0.5, 2.0, 1e300, -1e300, 2.0**63, 5e-324]),
    st.integers(0, 8).map(large),
)
STRINGS = st.one_of(
    st.sampled_from(["", "a", "b", "é", "z", "\U0001f986", "\uffff", "nul\0", "nul\0b"]),
    st.sampled_from("ab").map(long),
)
SCALARS = st.one_of(NUMBERS, STRINGS, st.booleans(), st.none())
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(NAMES, SCALARS, max_size=2))
METADATA = st.dictionaries(NAMES, VALUES, max_size=3)
ASKED = st.one_of(
    VALUES.map(lambda v: {"$eq": v}),
    VALUES.map(lambda v: {"$ne": v}),
    st.lists(VALUES, max_size=3).map(lambda v: {"$in": v}),
    st.lists(VALUES, max_size=3).map(lambda v: {"$nin": v}),
    SCALARS.map(lambda v: {"$contains": v}),
    st.booleans().map(lambda v: {"$exists": v}),
    st.tuples(st.sampled_from(["$lt", "$lte", "$gt", "$gte"]), st.one_of(NUMBERS, STRINGS)).map(
        lambda t: {t[0]: t[1]}
    ),
)
LEAVES = st.dictionaries(NAMES, ASKED, min_size=1, max_size=2)
WHERE: st.SearchStrategy[dict[str, Any]] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda w: {"$and": w}),
        st.lists(inner, max_size=3).map(lambda w: {"$or": w}),
        inner.map(lambda w: {"$not": w}),
    ),
    max_leaves=5,
)


def record_of(metadata: list[dict[str, Any]]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(PASSAGES + FIELDS)
    for row, fields in enumerate(metadata):
        values = (row, str(row), "", "text", metadata_json(fields), b"", b"", b"", 1, b"")
        connection.execute("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        connection.executemany("INSERT INTO fields VALUES (?, ?, ?, ?)", [(*e, row) for e in entries(fields)])
    return connection


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(st.data())
def test_the_index_of_fields_finds_what_matches(data: st.DataObject) -> None:
    metadata, where = data.draw(st.lists(METADATA, max_size=8)), data.draw(WHERE)
    connection = record_of(metadata)
    try:
        condition = parse(where)
        assert condition is not None
        found = fulfilling(connection, condition, len(metadata)).tolist()
    finally:
        connection.close()
    assert found == [matches(condition, fields) for fields in metadata]


def test_numbers_beyond_what_sqlite_holds() -> None:
    connection = record_of([{"n": 10**400}, {"n": 2**63 + 1}, {"n": 1.5}, {"n": "1"}])
    for where, expected in (
        ({"n": {"$gt": 2}}, [True, True, False, False]),
        ({"n": {"$gt": 2**63}}, [True, True, False, False]),
        ({"n": {"$lt": 10**400}}, [False, True, True, False]),
        ({"n": 2**63 + 1}, [False, True, False, False]),
    ):
        condition = parse(where)
        assert condition is not None
        assert fulfilling(connection, condition, 4).tolist() == expected
    connection.close()


def test_a_name_that_nobody_has_is_told_from_one_that_may_be_absent() -> None:
    connection = record_of([{"topic": "Arts"}, {"year": 1}])
    assert field_names(connection) == ["topic", "year"]
    for fine in (
        {"topic": "x"},
        {"tpoic": {"$ne": 1}},
        {"$not": {"tpoic": 1}},
        {"tpoic": {"$exists": False}},
    ):
        condition = parse(fine)
        assert condition is not None
        check_fields(connection, condition)
    condition = parse({"$or": [{"topic": "x"}, {"tpoic": {"$gt": 1}}]})
    assert condition is not None
    with pytest.raises(
        ValueError, match="no passage has the metadata field 'tpoic'; the fields are: 'topic', 'year'"
    ):
        check_fields(connection, condition)
    connection.close()


def test_an_entry_whose_row_is_no_number_is_refused():
    connection = sqlite3.connect(":memory:")
    with contextlib.closing(connection):
        connection.execute("CREATE TABLE fields (name, kind, value, row)")
        connection.executemany("INSERT INTO fields VALUES ('a', 1, 7, ?)", [(0,), ("x",)])
        with pytest.raises(CorruptIndexError, match="'a' are not as they were written"):
            fulfilling(connection, parse({"a": 7}), 2)
