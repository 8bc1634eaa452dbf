"""DPR's pickled vectors, read as data: a list of (id, NumPy vector), of any protocol from 0 to 5.

Nothing that a file names is imported or called. A small machine keeps a stack and a memo as ``pickle`` does, knows
seven names (NumPy's array, dtype and scalar, and how protocols below 3 write bytes), and refuses everything else with
its position. facebookresearch/DPR's ``generate_dense_embeddings.py`` writes such files.

A file is read twice: first to see which memo entries it comes back to (some dozens in a real file), then to give out
pair after pair. So memory does not grow with the file, although a pickle gives every object a memo entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rag_infer.errors import VectorFileError
from rag_infer.knowledge.pickle_budget import Budget
from rag_infer.knowledge.pickle_opcodes import Opcode, OpcodeReader
from rag_infer.knowledge.pickle_values import (
    NAMES,
    REDUCTIONS,
    ArrayValue,
    ListValue,
    Name,
    NotDataError,
    build,
)

GETS = ("GET", "BINGET", "LONG_BINGET")
PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
MAX_MEMO_ENTRIES = 1_000_000


def read_pickled_vectors(path: Path) -> Iterator[tuple[int | str, NDArray[Any]]]:
    """The (id, vector) pairs of a pickle file, in order; the vectors as they are stored, one-dimensional.

    Raises:
        VectorFileError: anything but a list of (id, vector); the message has the byte, the opcode and the name.
    """
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            wanted = _entries_used_again(OpcodeReader(path, stream, size))
            stream.seek(0)
            yield from _Machine(OpcodeReader(path, stream, size), wanted).pairs()
    except OSError as error:
        raise VectorFileError(f"{path} cannot be read: {error.strerror or error}") from error


def _entries_used_again(reader: OpcodeReader) -> set[object]:
    wanted: set[object] = set()
    for opcode in reader:
        if opcode.name in GETS:
            wanted.add(opcode.argument)
            if len(wanted) > MAX_MEMO_ENTRIES:
                reader.refuse(opcode.position, f"it comes back to over {MAX_MEMO_ENTRIES:,} objects")
    return wanted


class _Machine:
    """The stack machine of ``pickle``, for the opcodes of `OPCODES`."""

    def __init__(self, reader: OpcodeReader, wanted: set[object]) -> None:
        self._reader = reader
        self._wanted = wanted
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[object, Any] = {}
        self._memoized = 0
        self._list: ListValue | None = None
        self._budget = Budget()

    def pairs(self) -> Iterator[tuple[int | str, NDArray[Any]]]:
        """The pairs, as soon as the list gets them."""
        for opcode in self._reader:
            try:
                if opcode.name in STEPS:
                    STEPS[opcode.name](self, opcode)
                elif opcode.name in GIVING:
                    yield from map(_pair, self._items(opcode.name))
                    self._budget.release()
                elif opcode.name == "STOP":
                    self._stop()
            except (
                NotDataError,
                ValueError,
            ) as error:  # ValueError: text of another encoding than it should be
                self._reader.refuse(opcode.position, f"{opcode.name}: {error}; no pickle is ever loaded")
        self._reader.check_end()

    def constant(self, opcode: Opcode) -> None:
        """A string, a number, bytes, None, True or False."""
        self._push(opcode.argument)

    def mark(self, opcode: Opcode) -> None:
        """Where a tuple, or a run of items, begins."""
        del opcode
        self._budget.add(None)
        self._marks.append(len(self._stack))

    def empty_list(self, opcode: Opcode) -> None:
        """The one list."""
        del opcode
        if self._list is not None:
            raise NotDataError("a second list; one list of (id, vector) is expected")
        self._list = ListValue()
        self._push(self._list)

    def tuple_to_mark(self, opcode: Opcode) -> None:
        """A tuple of what lies above the mark."""
        del opcode
        self._push(tuple(self._pop_to_mark()))

    def tuple_of_few(self, opcode: Opcode) -> None:
        """A tuple of 0 to 3 values."""
        self._push(tuple(self._pop({"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}[opcode.name])))

    def global_name(self, opcode: Opcode) -> None:
        """One of `NAMES`, as a constant: nothing is looked up or imported."""
        name = str(opcode.argument) if opcode.name == "GLOBAL" else " ".join(map(_text, self._pop(2)))
        if name not in NAMES:
            raise NotDataError(f"it names {name[:200]!r}, which is neither NumPy's array, dtype nor scalar")
        self._push(NAMES[name])

    def reduce(self, opcode: Opcode) -> None:
        """A value in place of a "call"."""
        del opcode
        name, arguments = self._pop(2)
        if not isinstance(name, Name) or name not in REDUCTIONS or not isinstance(arguments, tuple):
            raise NotDataError(f"a call of {name.value if isinstance(name, Name) else type(name).__name__}")
        try:
            self._push(REDUCTIONS[name](arguments))
        except NotDataError as error:
            raise NotDataError(f"{name.value}: {error}") from None

    def build(self, opcode: Opcode) -> None:
        """Contents for the value below."""
        del opcode
        target, state = self._pop(2)
        build(target, state)
        self._push(target)

    def put(self, opcode: Opcode) -> None:
        """Keep the top of the stack, where the file comes back to it."""
        index = self._memoized if opcode.name == "MEMOIZE" else opcode.argument
        self._memoized += 1
        (value,) = self._pop(1)
        self._stack.append(value)
        if index in self._wanted:
            self._memo[index] = value
            self._budget.keep(value)

    def get(self, opcode: Opcode) -> None:
        """What was kept."""
        if opcode.argument not in self._memo:
            raise NotDataError(f"memo entry {opcode.argument!r}, which has not been made yet")
        self._push(self._memo[opcode.argument])

    def _stop(self) -> None:
        if self._marks or self._list is None or self._stack != [self._list]:
            raise NotDataError("it ends without being a list of (id, vector)")

    def _items(self, name: str) -> list[Any]:
        """What the list gets."""
        items = self._pop(1) if name == "APPEND" else self._pop_to_mark()
        if name == "LIST":
            self.empty_list(Opcode(name, None, 0))
        if self._marks or len(self._stack) != 1 or self._stack[0] is not self._list:
            raise NotDataError("something other than one list of (id, vector) gets items")
        return items

    def _push(self, value: Any) -> None:
        self._budget.add(value)
        self._stack.append(value)

    def _pop(self, count: int) -> list[Any]:
        start = len(self._stack) - count
        if start < (self._marks[-1] if self._marks else 0):
            raise NotDataError(f"{count} values are needed, fewer are there")
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise NotDataError("there is no mark")
        start = self._marks.pop()
        taken = self._stack[start:]
        del self._stack[start:]
        return taken


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise NotDataError(f"a name that is a {type(value).__name__}")
    return value


def _pair(item: object) -> tuple[int | str, NDArray[Any]]:
    match item:
        case (int() | str() as id_, ArrayValue() as array) if not isinstance(id_, bool):
            return id_, array.vector()
        case tuple():
            kinds = ", ".join(type(value).__name__.removesuffix("Value") for value in item[:5])
            raise NotDataError(f"a list item ({kinds}) of {len(item)}, expected (id, vector)")
    raise NotDataError(
        f"a list item that is a {type(item).__name__.removesuffix('Value')}, expected (id, vector)"
    )


GIVING = ("APPEND", "APPENDS", "LIST")
CONSTANTS = (
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
STEPS: dict[str, Callable[[_Machine, Opcode], None]] = {
    **dict.fromkeys(CONSTANTS, _Machine.constant),
    **dict.fromkeys(GETS, _Machine.get),
    **dict.fromkeys((*PUTS, "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), _Machine.tuple_of_few),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _Machine.global_name),
    "MARK": _Machine.mark,
    "EMPTY_LIST": _Machine.empty_list,
    "TUPLE": _Machine.tuple_to_mark,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
