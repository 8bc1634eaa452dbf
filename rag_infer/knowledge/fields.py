"""Metadata fields as the record keeps them for filters, and which rows fulfil a condition.

Each field of a passage is an entry (name, kind, value, row) that an index orders: numbers and short strings by
value, so that ranges are looked up too; anything else by its digest. Elements of a list have entries of their own.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError
from rag_infer.knowledge.conditions import (
    All,
    AnyOf,
    Compare,
    Condition,
    Contains,
    Equals,
    Exists,
    Not,
    is_number,
    matches,
)
from rag_infer.knowledge.passage import field_digest

# Kinds of entries.
OTHER, NUMBER, STRING, ELEMENT = 0, 1, 2, 3

# Longer strings are looked up by digest, and compared in Python.
LONGEST_STRING = 512

Entry = tuple[str, int, "bytes | int | float"]


def entries(metadata: Mapping[str, Any]) -> list[Entry]:
    """The entries of a passage's metadata.

    >>> [(name, kind) for name, kind, _ in entries({"year": 1999, "tags": ["a", "b", "a"]})]
    [('year', 1), ('tags', 0), ('tags', 3), ('tags', 3)]
    """
    found: list[Entry] = []
    for name, value in metadata.items():
        found.append((name, *_key(name, value)))
        if isinstance(value, list | tuple):
            digests = dict.fromkeys(field_digest(name, element) for element in value)
            found += [(name, ELEMENT, digest) for digest in digests]
    return found


def insert_fields(connection: sqlite3.Connection, described: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
    """Make passages findable by their metadata, given as (row, metadata)."""
    connection.executemany("INSERT INTO fields VALUES (?, ?, ?, ?)", _rows_of_table(described))


def delete_fields(connection: sqlite3.Connection, described: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
    """Undo `insert_fields` for the same rows and metadata."""
    query = "DELETE FROM fields WHERE name = ? AND kind = ? AND value = ? AND row = ?"
    connection.executemany(query, _rows_of_table(described))


def _rows_of_table(described: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[tuple[object, ...]]:
    return ((*entry, row) for row, metadata in described for entry in entries(metadata))


def fulfilling(connection: sqlite3.Connection, condition: Condition, rows: int) -> NDArray[np.bool_]:
    """Bool ``[rows]``: which rows fulfil a condition. Dead rows have no fields.

    Exact under any selectivity: every leaf is looked up in the index of fields.
    """
    match condition:
        case Not(inner):
            return ~fulfilling(connection, inner, rows)
        case All(conditions):
            mask = np.ones(rows, dtype=np.bool_)
            for inner in conditions:
                mask &= fulfilling(connection, inner, rows)
            return mask
        case AnyOf(conditions):
            mask = np.zeros(rows, dtype=np.bool_)
            for inner in conditions:
                if isinstance(inner, Not | All | AnyOf):
                    mask |= fulfilling(connection, inner, rows)
                else:  # thousands of values of $in are thousands of these
                    mask[_rows(connection, inner)] = True
            return mask
        case _:
            mask = np.zeros(rows, dtype=np.bool_)
            mask[_rows(connection, condition)] = True
            return mask


def check_fields(connection: sqlite3.Connection, condition: Condition) -> None:
    """Refuse a condition that asks for a field which no passage has: most likely its name is misspelt.

    What is negated may be absent: then it holds for all.

    Raises:
        ValueError: the message has the fields there are.
    """
    for name in sorted(set(asked_fields(condition))):
        if connection.execute("SELECT 1 FROM fields WHERE name = ? LIMIT 1", (name,)).fetchone() is None:
            known = ", ".join(repr(n) for n in field_names(connection)) or "none"
            raise ValueError(f"no passage has the metadata field {name!r}; the fields are: {known}")


def field_names(connection: sqlite3.Connection) -> list[str]:
    """The names of all metadata fields, in order; a step in the index for each."""
    names: list[str] = []
    query = "SELECT min(name) FROM fields"
    while (found := connection.execute(query, names[-1:]).fetchone()[0]) is not None:
        names.append(found)
        query = "SELECT min(name) FROM fields WHERE name > ?"
    return names


def _key(name: str, value: Any) -> tuple[int, bytes | int | float]:
    """Kind and value of a field's entry."""
    if is_number(value):
        number = _storable(value)
        if number is not None:
            return NUMBER, number
    if isinstance(value, str) and len(text := value.encode()) <= LONGEST_STRING:
        return STRING, text
    return OTHER, field_digest(name, value)


def _storable(value: int | float) -> int | float | None:
    """A number as SQLite holds it exactly, or None."""
    if isinstance(value, float) or -(2**63) <= value < 2**63:
        return value
    try:
        return float(value) if float(value) == value else None
    except OverflowError:
        return None


def _rows(connection: sqlite3.Connection, leaf: Condition) -> NDArray[np.int64]:
    """Rows that fulfil a condition on one field."""
    match leaf:
        case Equals(name, value):
            return _found(connection, "kind = ? AND value = ?", (name, *_key(name, value)))
        case Contains(name, value):
            return _found(connection, "kind = ? AND value = ?", (name, ELEMENT, field_digest(name, value)))
        case Exists(name):
            return _found(connection, "kind != ?", (name, ELEMENT))
        case Compare(name, operator, bound):
            return np.concatenate(
                [_in_index(connection, name, operator, bound), _beyond_index(connection, leaf)]
            )
    raise TypeError(f"not a condition on a field: {leaf!r}")


def _in_index(connection: sqlite3.Connection, name: str, operator: str, bound: Any) -> NDArray[np.int64]:
    if isinstance(bound, str):
        return _found(connection, f"kind = ? AND value {operator} ?", (name, STRING, bound.encode()))
    number = _storable(bound)
    if number is None:  # between two numbers that SQLite can hold, or beyond all of them
        operator, number = _neighbour(operator, bound)
    return _found(connection, f"kind = ? AND value {operator} ?", (name, NUMBER, number))


def _neighbour(operator: str, bound: int) -> tuple[str, float]:
    """A comparison with a float that says the same of all floats and 64-bit integers."""
    try:
        near = float(bound)
    except OverflowError:
        near = float("inf") if bound > 0 else float("-inf")
    # Nothing equals the bound itself: below it is up to a neighbour below, or under a neighbour above.
    if operator.startswith("<"):
        return ("<=" if near < bound else "<"), near
    return (">=" if near > bound else ">"), near


def _beyond_index(connection: sqlite3.Connection, compare: Compare) -> NDArray[np.int64]:
    """Rows whose value is too long or too large for the index of values: compared one by one."""
    query = (
        "SELECT fields.row, passages.metadata FROM fields JOIN passages ON passages.row = fields.row "
        "WHERE name = ? AND kind = ?"
    )
    found = connection.execute(query, (compare.field, OTHER))
    rows = [row for row, metadata in found if matches(compare, json.loads(metadata))]
    return np.array(rows, dtype=np.int64)


def _found(connection: sqlite3.Connection, where: str, values: Sequence[Any]) -> NDArray[np.int64]:
    # As one text: three times faster than a step of SQLite and an object of Python for each of perhaps a million rows.
    query = f"SELECT group_concat(row) FROM fields WHERE name = ? AND {where}"
    (listed,) = connection.execute(query, values).fetchone()
    try:
        return np.array(json.loads(f"[{listed or ''}]"), dtype=np.int64)
    except ValueError as error:
        raise CorruptIndexError(
            f"the record's entries of metadata field {values[0]!r} are not as they were written: {error}"
        ) from error


def asked_fields(condition: Condition) -> Iterator[str]:
    """Fields that must be there."""
    match condition:
        case Equals(name, _) | Contains(name, _) | Compare(name, _, _):
            yield name
        case All(conditions) | AnyOf(conditions):
            for inner in conditions:
                yield from asked_fields(inner)
