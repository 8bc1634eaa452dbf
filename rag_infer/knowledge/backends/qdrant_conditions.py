"""Conditions on metadata as Qdrant filters; what a filter cannot say exactly it says too generously.

Equality, membership and existence are exact, by tokens. Ranges compare float64, which is not exact for large integers,
and do not know strings: there the filter lets through more, and the caller looks at the passages again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

from qdrant_client import models

from rag_infer.knowledge.backends.qdrant_payload import (
    ELEMENTS,
    LABELS,
    NAMES,
    NUMBERS,
    as_float,
    name_token,
    token,
)
from rag_infer.knowledge.conditions import (
    All,
    AnyOf,
    Compare,
    Condition,
    Contains,
    Equals,
    Exists,
    Not,
)


class Translation(NamedTuple):
    """A condition as Qdrant takes it.

    Attributes:
        filter: lets through at least what the condition asks for; None lets through everything.
        exact: whether it lets through nothing else.
    """

    filter: models.Filter | None
    exact: bool


def to_filter(condition: Condition | None) -> Translation:
    """A filter that lets through at least what fulfils a condition."""
    match condition:
        case None:
            return Translation(None, exact=True)
        case Equals(field, value):
            return _has(LABELS, token(field, value))
        case Contains(field, value):
            return _has(ELEMENTS, token(field, value))
        case Exists(field):
            return _has(NAMES, name_token(field))
        case Compare():
            return _compare(condition)
        case Not(inner):
            return _not(to_filter(inner))
        case All(conditions):
            return _all(conditions)
        case AnyOf(conditions):
            return _any(conditions)


def _has(key: str, value: str) -> Translation:
    condition = models.FieldCondition(key=key, match=models.MatchValue(value=value))
    return Translation(models.Filter(must=[condition]), exact=True)


def _not(inner: Translation) -> Translation:
    if not inner.exact:  # of what lets through too much, the opposite would let through too little
        return Translation(None, exact=False)
    if inner.filter is None:
        return _nothing()
    return Translation(models.Filter(must_not=[inner.filter]), exact=True)


def _nothing() -> Translation:
    # No token is empty.
    return _has(LABELS, "")


def _compare(condition: Compare) -> Translation:
    if isinstance(condition.bound, str):
        return Translation(_has(NAMES, name_token(condition.field)).filter, exact=False)
    bound = as_float(condition.bound)
    # A neighbour further: a large integer may have been rounded to the other side of the bound.
    if condition.operator in ("<", "<="):
        limits = models.Range(lte=_clamped(math.nextafter(bound, math.inf)))
    else:
        limits = models.Range(gte=_clamped(math.nextafter(bound, -math.inf)))
    key = f"{NUMBERS}.{name_token(condition.field)}"
    return Translation(models.Filter(must=[models.FieldCondition(key=key, range=limits)]), exact=False)


def _clamped(value: float) -> float:
    return min(max(value, -sys.float_info.max), sys.float_info.max)


def _all(conditions: Sequence[Condition]) -> Translation:
    parts = [to_filter(inner) for inner in conditions]
    filters: list[models.Condition] = [part.filter for part in parts if part.filter is not None]
    exact = all(part.exact for part in parts)
    return Translation(models.Filter(must=filters) if filters else None, exact)


def _any(conditions: Sequence[Condition]) -> Translation:
    # Values that a field may have are looked for together: $in has thousands.
    tokens = [token(inner.field, inner.value) for inner in conditions if isinstance(inner, Equals)]
    parts = [to_filter(inner) for inner in conditions if not isinstance(inner, Equals)]
    if tokens:
        among = models.FieldCondition(key=LABELS, match=models.MatchAny(any=tokens))
        parts.append(Translation(models.Filter(must=[among]), exact=True))
    if not parts:
        return _nothing()
    exact = all(part.exact for part in parts)
    if any(part.filter is None for part in parts):
        return Translation(None, exact)
    filters: list[models.Condition] = [part.filter for part in parts if part.filter is not None]
    return Translation(models.Filter(should=filters), exact)
