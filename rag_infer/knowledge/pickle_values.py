"""What a pickle of vectors is made of, as plain values: the few names it may use and what each of them means.

A name is a constant here, never an object of that name. What a file asks to "call" becomes a value of this module,
made from checked arguments; NumPy only ever gets bytes, a width and one of the dtypes of `FLOATS` or `INTEGERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOATS = ("f2", "f4", "f8")
INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")


class NotDataError(Exception):
    """Something other than the plain data that is expected; the machine adds where."""


class Name(Enum):
    """The names a file may use, by what they stand for."""

    ARRAY_TYPE = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    ARRAY = "numpy's _reconstruct"
    ARRAY_OF_BUFFER = "numpy's _frombuffer"
    SCALAR = "numpy's scalar"
    LATIN1 = "_codecs.encode"
    BYTES = "bytes"


NAMES = {
    "numpy ndarray": Name.ARRAY_TYPE,
    "numpy dtype": Name.DTYPE,
    "numpy.core.multiarray _reconstruct": Name.ARRAY,
    "numpy._core.multiarray _reconstruct": Name.ARRAY,
    "numpy.core.numeric _frombuffer": Name.ARRAY_OF_BUFFER,
    "numpy._core.numeric _frombuffer": Name.ARRAY_OF_BUFFER,
    "numpy.core.multiarray scalar": Name.SCALAR,
    "numpy._core.multiarray scalar": Name.SCALAR,
    "_codecs encode": Name.LATIN1,
    "__builtin__ bytes": Name.BYTES,
    "builtins bytes": Name.BYTES,
}


class ListValue:
    """The list of pairs; its items are handed out, not kept."""


@dataclass
class DTypeValue:
    """A dtype: its code without byte order, then the order that BUILD gives."""

    code: str
    order: str = ""


@dataclass
class ArrayValue:
    """An array: nothing at first, then what BUILD gives."""

    dtype: DTypeValue | None = None
    shape: tuple[Any, ...] = ()
    data: bytes = b""

    def vector(self) -> NDArray[Any]:
        """The one-dimensional array, over the file's bytes: float16, float32 or float64.

        Raises:
            NotDataError: it is something else.
        """
        if self.dtype is None:
            raise NotDataError("an array without contents")
        if self.dtype.code not in FLOATS or self.dtype.order != "<":
            raise NotDataError(
                f"an array of dtype {self.dtype.order}{self.dtype.code}, expected <f4 (float32) or <f2 (float16)"
            )
        if len(self.shape) != 1 or not isinstance(self.shape[0], int):
            raise NotDataError(f"an array of {len(self.shape)} dimensions, expected a vector of one")
        return _numbers(self.dtype, self.data, self.shape[0])


def build(target: object, state: object) -> None:
    """Give a dtype or an array its contents, as BUILD does.

    Raises:
        NotDataError: another target, or a state of another form.
    """
    if not isinstance(state, tuple):
        raise NotDataError(f"a state that is a {type(state).__name__}, not a tuple")
    if isinstance(target, DTypeValue) and not target.order:
        match state:
            case (3 | 4, str(order), None, None, None, int(), int(), int()) if order in ("<", "|"):
                target.order = order
            case _:
                raise NotDataError("a dtype that is not a plain little-endian one")
    elif isinstance(target, ArrayValue) and target.dtype is None:
        match state:
            case (1, tuple(shape), DTypeValue() as dtype, bool(), bytes(data)):
                target.dtype, target.shape, target.data = dtype, shape, data
            case _:
                raise NotDataError("an array whose contents are not plain bytes")
    else:
        raise NotDataError(f"contents for a {type(target).__name__}, which takes none")


def _dtype(arguments: tuple[Any, ...]) -> DTypeValue:
    match arguments:
        case (str(code), bool(), bool()):
            width = code[1:]
            if code in FLOATS or code in INTEGERS or (code[:1] == "U" and width.isdigit() and len(width) < 7):
                return DTypeValue(code)
            raise NotDataError(f"the dtype {code[:40]!r}, which is no plain number")
    raise NotDataError("arguments of another form")


def _array(arguments: tuple[Any, ...]) -> ArrayValue:
    match arguments:
        case (Name.ARRAY_TYPE, (0,), b"b"):
            return ArrayValue()
    raise NotDataError("arguments of another form")


def _array_of_buffer(arguments: tuple[Any, ...]) -> ArrayValue:
    match arguments:
        case (bytes(data), DTypeValue() as dtype, tuple(shape), "C" | "F"):
            return ArrayValue(dtype, shape, data)
    raise NotDataError("arguments of another form")


def _scalar(arguments: tuple[Any, ...]) -> int | str:
    match arguments:
        case (DTypeValue() as dtype, bytes(data)):
            if dtype.code in INTEGERS:
                return int(_numbers(dtype, data, 1)[0])
            if dtype.code[0] == "U" and len(data) == 4 * int(dtype.code[1:]):
                return data.decode("utf-32-le").rstrip("\0")
            raise NotDataError(f"a scalar of dtype {dtype.code} in {len(data)} bytes")
    raise NotDataError("arguments of another form")


def _latin1(arguments: tuple[Any, ...]) -> bytes:
    match arguments:
        case (str(text), "latin1"):
            return text.encode("latin1")
    raise NotDataError("arguments of another form")


def _bytes(arguments: tuple[Any, ...]) -> bytes:
    if arguments:
        raise NotDataError("arguments of another form")
    return b""


def _numbers(dtype: DTypeValue, data: bytes, count: int) -> NDArray[Any]:
    kind = np.dtype(f"<{dtype.code}")
    if count < 0 or len(data) != count * kind.itemsize:
        raise NotDataError(f"{len(data):,} bytes for {count:,} numbers of dtype {dtype.code}")
    return np.frombuffer(data, dtype=kind) if data else np.empty(0, dtype=kind)


REDUCTIONS: dict[Name, Callable[[tuple[Any, ...]], Any]] = {
    Name.DTYPE: _dtype,
    Name.ARRAY: _array,
    Name.ARRAY_OF_BUFFER: _array_of_buffer,
    Name.SCALAR: _scalar,
    Name.LATIN1: _latin1,
    Name.BYTES: _bytes,
}
