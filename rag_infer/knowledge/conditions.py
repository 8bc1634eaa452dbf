"""Conditions on metadata: what ``where`` may say, read once into a small tree that each store translates.

The language is that of MongoDB's queries, as Chroma and others use it: ``{"topic": "Arts"}`` (equal), and with
operators ``{"year": {"$gte": 1900, "$lt": 2000}}``, ``{"topic": {"$in": ["Arts", "Physics"]}}``, ``$ne``, ``$nin``,
``$exists``, ``$contains`` (an element of a list), ``$and``, ``$or``, ``$not``. Several fields must all hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from rag_infer.knowledge.passage import check_metadata_value, check_text, field_digest

MAX_DEPTH = 32


@dataclass(frozen=True)
class Equals:
    """The field is there and has this value: 2020 equals 2020.0, but True does not equal 1."""

    field: str
    value: Any


@dataclass(frozen=True)
class Contains:
    """The field is a list with this element."""

    field: str
    value: Any


@dataclass(frozen=True)
class Compare:
    """The field is a number, or a string, on one side of a bound of the same kind; strings by code points.

    ``operator`` is "<", "<=", ">" or ">=".
    """

    field: str
    operator: str
    bound: int | float | str


@dataclass(frozen=True)
class Exists:
    """The field is there, whatever its value."""

    field: str


@dataclass(frozen=True)
class Not:
    """The condition does not hold; that includes passages without its field."""

    condition: Condition


@dataclass(frozen=True)
class All:
    """Every one holds; of none, always."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """At least one holds; of none, never."""

    conditions: tuple[Condition, ...]


Condition: TypeAlias = Equals | Contains | Compare | Exists | Not | All | AnyOf

_COMPARISONS = {"$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}


def parse(where: Mapping[str, Any] | None) -> Condition | None:
    """Read a ``where``; None where it asks for nothing.

    Raises:
        TypeError: not a mapping, or an operand of another type than its operator takes.
        ValueError: an unknown operator, or a value that JSON cannot hold.

    >>> parse({"topic": "Arts", "year": {"$gte": 1900}})
    All(conditions=(Equals(field='topic', value='Arts'), Compare(field='year', operator='>=', bound=1900)))
    """
    if where is None:
        return None
    if not isinstance(where, Mapping):
        raise TypeError(f"where must be a mapping of metadata fields, got {type(where).__name__}")
    return _together([_entry(name, value, 0) for name, value in where.items()]) if where else None


def demand_condition(where: Mapping[str, Any]) -> Condition:
    """Read a ``where`` that must ask for something: one that deletes, say.

    Raises:
        TypeError, ValueError: as `parse`, or it is empty.
    """
    condition = parse(where)
    if condition is None:
        raise ValueError("where is empty: it would be fulfilled by every passage")
    return condition


def matches(condition: Condition | None, metadata: Mapping[str, Any]) -> bool:
    """Whether metadata fulfil a condition: the plain meaning that every store's translation must equal.

    >>> matches(parse({"year": {"$gte": 1900, "$lt": 2000}}), {"year": 1999.5})
    True
    """
    match condition:
        case None:
            return True
        case Equals(field, value):
            return field in metadata and _same(field, metadata[field], value)
        case Contains(field, value):
            held = metadata.get(field)
            return isinstance(held, list | tuple) and any(_same(field, item, value) for item in held)
        case Compare(field, operator, bound):
            held = metadata.get(field)
            return _comparable(held, bound) and _OPERATORS[operator](held, bound)
        case Exists(field):
            return field in metadata
        case Not(inner):
            return not matches(inner, metadata)
        case All(conditions):
            return all(matches(inner, metadata) for inner in conditions)
        case AnyOf(conditions):
            return any(matches(inner, metadata) for inner in conditions)


def is_number(value: Any) -> bool:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": lambda held, bound: bool(held < bound),
    "<=": lambda held, bound: bool(held <= bound),
    ">": lambda held, bound: bool(held > bound),
    ">=": lambda held, bound: bool(held >= bound),
}


def _same(field: str, held: Any, value: Any) -> bool:
    return field_digest(field, held) == field_digest(field, value)


def _comparable(held: Any, bound: Any) -> bool:
    return (is_number(held) and is_number(bound)) or (isinstance(held, str) and isinstance(bound, str))


def _together(conditions: Sequence[Condition]) -> Condition:
    return conditions[0] if len(conditions) == 1 else All(tuple(conditions))


def _entry(name: str, value: Any, depth: int) -> Condition:
    """One entry of a mapping: a field with what is asked of it, or ``$and``, ``$or``, ``$not``."""
    if not isinstance(name, str):
        raise TypeError(f"a metadata field's name must be a string, got {name!r}")
    check_text("a metadata field's name", name)
    if depth > MAX_DEPTH:
        raise ValueError(f"where is nested more than {MAX_DEPTH} deep")
    if name in ("$and", "$or"):
        parts = [_whole(name, part, depth + 1) for part in _list(name, value)]
        return (
            _together(parts)
            if name == "$and" and parts
            else All(())
            if name == "$and"
            else AnyOf(tuple(parts))
        )
    if name == "$not":
        return Not(_whole(name, value, depth + 1))
    if name.startswith("$"):
        raise ValueError(f"unknown operator {name!r} in where: expected $and, $or, $not or a field's name")
    if isinstance(value, Mapping) and value and all(isinstance(k, str) and k.startswith("$") for k in value):
        return _together([_asked(name, operator, operand, depth) for operator, operand in value.items()])
    check_metadata_value(name, value)
    return Equals(name, value)


def _whole(name: str, value: Any, depth: int) -> Condition:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} takes mappings of metadata fields, got {type(value).__name__}")
    return _together([_entry(inner, asked, depth) for inner, asked in value.items()])


def _list(name: str, value: Any) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{name} takes a list, got {type(value).__name__}")
    return value


def _asked(field: str, operator: str, operand: Any, depth: int) -> Condition:
    """What an operator asks of a field."""
    if operator in _COMPARISONS:
        check_metadata_value(field, operand)
        if not (is_number(operand) or isinstance(operand, str)):
            raise TypeError(
                f"{operator} on {field!r} takes a number or a string, got {type(operand).__name__}"
            )
        return Compare(field, _COMPARISONS[operator], operand)
    if operator in ("$in", "$nin"):
        values = _list(f"{operator} on {field!r}", operand)
        for value in values:
            check_metadata_value(field, value)
        found = AnyOf(tuple(Equals(field, value) for value in values))
        return found if operator == "$in" else Not(found)
    if operator == "$exists":
        if not isinstance(operand, bool):
            raise TypeError(f"$exists on {field!r} takes True or False, got {operand!r}")
        return Exists(field) if operand else Not(Exists(field))
    if operator == "$not":
        return Not(_entry(field, operand, depth + 1))
    if operator not in ("$eq", "$ne", "$contains"):
        raise ValueError(
            f"unknown operator {operator!r} on {field!r}: expected $eq, $ne, $in, $nin, $lt, $lte, $gt, $gte, "
            "$exists, $contains or $not"
        )
    check_metadata_value(field, operand)
    if operator == "$contains":
        return Contains(field, operand)
    return Equals(field, operand) if operator == "$eq" else Not(Equals(field, operand))
