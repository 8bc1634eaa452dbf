"""Conditions on metadata as SQL over the column ``fields`` (jsonb), with the meaning of `conditions.matches`.

``fields`` holds the metadata with whole floats written as integers (see `comparable`). What is written here is never
NULL, because NOT of NULL would not be true.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

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
)

Sql: TypeAlias = tuple[str, list[Any]]

NUL = "\0"
# A protocol's limit is 65,535 for a statement, which has some of its own.
MOST_PARAMETERS = 60_000
# So many values of a field are each looked up in the index; with more, planning alone takes longer than looking at all.
MOST_LOOKED_UP = 100

TRUE: Sql = ("true", [])
FALSE: Sql = ("false", [])


def to_sql(condition: Condition | None) -> Sql:
    """(A condition that is true or false of a row of ``passages``, its parameters for ``%s``).

    >>> to_sql(Equals("year", 2020.0))
    ('fields @> %s::jsonb', ['{"year":2020}'])
    """
    match condition:
        case None:
            return TRUE
        case Equals(field, value):
            return _equals(field, value)
        case Contains(field, value):
            return _contains(field, value)
        case Compare(field, operator, bound):
            return _compare(field, operator, bound)
        case Exists(field):
            return FALSE if NUL in field else ("fields ? %s", [field])
        case Not(inner):
            sql, parameters = to_sql(inner)
            return f"NOT ({sql})", parameters
        case All(conditions):
            return _joined("AND", conditions, TRUE)
        case AnyOf(conditions):
            return _any(conditions)


def sized_sql(condition: Condition | None) -> Sql:
    """As `to_sql`.

    Raises:
        ValueError: a condition with more values than a statement takes.
    """
    sql, parameters = to_sql(condition)
    if len(parameters) > MOST_PARAMETERS:
        raise ValueError(
            f"where has {len(parameters):,} values and names, PostgreSQL takes {MOST_PARAMETERS:,}: use $in for many "
            "values of a field"
        )
    return sql, parameters


def comparable(value: Any) -> Any:
    """A metadata value with whole floats as integers: a number that is large as a float is exact as an integer.

    >>> comparable({"year": 2020.0, "share": 0.5})
    {'year': 2020, 'share': 0.5}
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: comparable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(inner) for inner in value]
    return value


def fields_json(metadata: Mapping[str, Any]) -> str:
    """Metadata as the column ``fields`` has it."""
    return _json(dict(metadata))


def has_nul(value: Any) -> bool:
    r"""Whether there is a NUL in a string of a metadata value, or in a key: PostgreSQL can hold none.

    >>> has_nul({"a": ["b", {"c\0": 1}]})
    True
    """
    if isinstance(value, str):
        return NUL in value
    if isinstance(value, Mapping):
        return any(has_nul(name) or has_nul(inner) for name, inner in value.items())
    return isinstance(value, list | tuple) and any(has_nul(inner) for inner in value)


def _json(value: Any) -> str:
    return json.dumps(comparable(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, Mapping | list | tuple)


def _equals(field: str, value: Any) -> Sql:
    if has_nul(field) or has_nul(value):
        return FALSE
    # Containment is equality for what is neither object nor list, and an index on jsonb knows it. For those it is
    # more than equality asks, and the equality itself is looked at too.
    contained = "fields @> %s::jsonb"
    if _is_scalar(value):
        return contained, [_json({field: value})]
    both = f"({contained} AND coalesce(fields -> %s = %s::jsonb, false))"
    return both, [_json({field: value}), field, _json(value)]


def _contains(field: str, value: Any) -> Sql:
    if has_nul(field) or has_nul(value):
        return FALSE
    contained = "fields @> %s::jsonb"
    if _is_scalar(value):
        return contained, [_json({field: [value]})]
    elements = "CASE jsonb_typeof(fields -> %s) WHEN 'array' THEN fields -> %s ELSE '[]'::jsonb END"
    exists = f"EXISTS (SELECT FROM jsonb_array_elements({elements}) AS element WHERE element = %s::jsonb)"
    return f"({contained} AND {exists})", [_json({field: [value]}), field, field, _json(value)]


def _compare(field: str, operator: str, bound: int | float | str) -> Sql:
    if NUL in field:
        return FALSE
    # CASE, unlike AND, is sure not to look at the second part of a row that is not of the first.
    if is_number(bound):
        held = "CASE jsonb_typeof(fields -> %s) WHEN 'number' THEN (fields ->> %s)::numeric"
        return f"{held} {operator} %s::numeric ELSE false END", [field, field, _json(bound)]
    text = str(bound)
    if NUL in text:
        # No string here has a NUL. What is greater than the part before it is greater than all that follows it.
        text = text.partition(NUL)[0]
        operator = "<=" if operator in ("<", "<=") else ">"
    # By the bytes of UTF-8, which is by code points.
    held = "CASE jsonb_typeof(fields -> %s) WHEN 'string' THEN (fields ->> %s) COLLATE \"C\""
    return f"{held} {operator} %s::text ELSE false END", [field, field, text]


def _any(conditions: Sequence[Condition]) -> Sql:
    values: dict[str, list[Any]] = {}
    for condition in conditions:
        if isinstance(condition, Equals) and not has_nul([condition.field, condition.value]):
            values.setdefault(condition.field, []).append(condition.value)
    many = {field: found for field, found in values.items() if len(found) > MOST_LOOKED_UP}
    others = [c for c in conditions if not (isinstance(c, Equals) and c.field in many)]
    sql, parameters = _joined("OR", others, FALSE)
    for field, found in many.items():
        sql += " OR coalesce(fields -> %s = ANY(%s::text[]::jsonb[]), false)"
        parameters = [*parameters, field, [_json(value) for value in found]]
    return f"({sql})", parameters


def _joined(word: str, conditions: Sequence[Condition], empty: Sql) -> Sql:
    if not conditions:
        return empty
    parts = [to_sql(condition) for condition in conditions]
    sql = f" {word} ".join(sql for sql, _ in parts)
    return f"({sql})", [parameter for _, parameters in parts for parameter in parameters]
