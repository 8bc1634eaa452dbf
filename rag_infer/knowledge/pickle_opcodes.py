"""The opcodes of a pickle file as plain values, read in bounded memory. Nothing is interpreted here.

The format is that of Python's ``pickletools``; `OPCODES` has the few that a list of (id, NumPy vector) needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from rag_infer.errors import VectorFileError

# One vector, as text of protocol 0 (4 bytes of a float32 may take 20): a width of 65,536 fits.
MAX_ARGUMENT_BYTES = 2_000_000
MAX_DIGITS = 100
MAX_NAME_BYTES = 200


class Opcode(NamedTuple):
    """One step of a pickle.

    Attributes:
        name: as ``pickletools`` has it.
        argument: int, str, bytes, bool or None.
        position: of its first byte in the file.
    """

    name: str
    argument: int | str | bytes | bool | None
    position: int


class OpcodeReader:
    """Reads a pickle file opcode by opcode.

    Args:
        path: for messages.
        stream: at the start of the file.
        size: of the file in bytes.
    """

    def __init__(self, path: Path, stream: BinaryIO, size: int) -> None:
        self._path = path
        self._stream = stream
        self._size = size
        self._position = 0

    def __iter__(self) -> Iterator[Opcode]:
        """The opcodes up to STOP.

        Raises:
            VectorFileError: an opcode that is not in `OPCODES`, an argument that is cut short, too long or malformed.
        """
        while True:
            at = self._position
            code = self._take(1)
            name, read = OPCODES.get(code, ("", _nothing))
            if not name:
                self.refuse(
                    at,
                    f"the opcode {code!r} has no place in a list of (id, vector); no pickle is ever loaded",
                )
            try:
                argument = read(self)
            except ValueError as error:  # UnicodeDecodeError among them
                self.refuse(at, f"the argument of {name} is malformed: {error}")
            yield Opcode(name, argument, at)
            if name == "STOP":
                return

    def check_end(self) -> None:
        """Refuse what follows STOP: vectors that nobody would see.

        Raises:
            VectorFileError: there is something.
        """
        if self._position != self._size:
            left = self._size - self._position
            self.refuse(
                self._position, f"{left:,} bytes follow the end of the list; expected one list per file"
            )

    def refuse(self, position: int, reason: str) -> NoReturn:
        """Raise the error of this file."""
        raise VectorFileError(f"{self._path}, byte {position:,}: {reason}")

    def _take(self, count: int) -> bytes:
        """The next bytes; a length that the file does not have is refused before anything is read."""
        at = self._position
        if count > self._size - at:
            self.refuse(
                at, f"{count:,} bytes are announced, the file has {self._size - at:,} left: cut short?"
            )
        if count > MAX_ARGUMENT_BYTES:
            self.refuse(
                at, f"a value of {count:,} bytes, over {MAX_ARGUMENT_BYTES:,}: no vector is that long"
            )
        data = self._stream.read(count)
        self._position += len(data)
        if len(data) != count:
            self.refuse(at, f"{count:,} bytes expected, {len(data):,} read: the file is being changed")
        return data

    def line(self, limit: int) -> bytes:
        """The bytes up to a line feed, which is left out."""
        at = self._position
        data = self._stream.readline(limit + 1)
        self._position += len(data)
        if not data.endswith(b"\n"):
            self.refuse(at, f"a line that does not end within {limit:,} bytes")
        return data[:-1]

    def number(self, count: int, *, signed: bool = False) -> int:
        """A little-endian integer of some bytes."""
        return int.from_bytes(self._take(count), "little", signed=signed)

    def sized(self, length_bytes: int) -> bytes:
        """Bytes after their number."""
        return self._take(self.number(length_bytes))

    def text(self, length_bytes: int) -> str:
        """UTF-8 after the number of its bytes."""
        return self.sized(length_bytes).decode("utf-8", "surrogatepass")

    def integer(self) -> int | bool:
        """A line of INT, PUT or GET; 00 and 01 are how protocol 0 writes truth values."""
        line = self.line(MAX_DIGITS)
        return line == b"01" if line in (b"00", b"01") else _whole(line)

    def long(self) -> int:
        """A line of LONG: digits and an L."""
        return _whole(self.line(MAX_DIGITS).removesuffix(b"L"))

    def global_name(self) -> str:
        """Module and name, with a space between."""
        return f"{self.line(MAX_NAME_BYTES).decode()} {self.line(MAX_NAME_BYTES).decode()}"

    def protocol(self) -> int:
        """The number of the protocol, at most 5."""
        number = self.number(1)
        if number > 5:
            raise ValueError(f"protocol {number}, the newest known is 5")
        return number


Read = Callable[[OpcodeReader], int | str | bytes | bool | None]


def _nothing(reader: OpcodeReader) -> None:
    """The argument of an opcode that has none."""
    del reader


def _whole(digits: bytes) -> int:
    # int() takes blanks, underscores and signs too.
    if not digits.removeprefix(b"-").isdigit():
        raise ValueError(f"{digits[:20]!r} is no integer")
    return int(digits)


OPCODES: dict[bytes, tuple[str, Read]] = {
    b"\x80": ("PROTO", lambda reader: reader.protocol()),
    b"\x95": ("FRAME", lambda reader: reader.number(8)),
    b".": ("STOP", _nothing),
    b"(": ("MARK", _nothing),
    b"]": ("EMPTY_LIST", _nothing),
    b"l": ("LIST", _nothing),
    b"a": ("APPEND", _nothing),
    b"e": ("APPENDS", _nothing),
    b")": ("EMPTY_TUPLE", _nothing),
    b"t": ("TUPLE", _nothing),
    b"\x85": ("TUPLE1", _nothing),
    b"\x86": ("TUPLE2", _nothing),
    b"\x87": ("TUPLE3", _nothing),
    b"N": ("NONE", _nothing),
    b"\x88": ("NEWTRUE", lambda _: True),
    b"\x89": ("NEWFALSE", lambda _: False),
    b"I": ("INT", lambda reader: reader.integer()),
    b"L": ("LONG", lambda reader: reader.long()),
    b"J": ("BININT", lambda reader: reader.number(4, signed=True)),
    b"K": ("BININT1", lambda reader: reader.number(1)),
    b"M": ("BININT2", lambda reader: reader.number(2)),
    b"\x8a": ("LONG1", lambda reader: int.from_bytes(reader.sized(1), "little", signed=True)),
    b"V": ("UNICODE", lambda reader: reader.line(MAX_ARGUMENT_BYTES).decode("raw-unicode-escape")),
    b"X": ("BINUNICODE", lambda reader: reader.text(4)),
    b"\x8c": ("SHORT_BINUNICODE", lambda reader: reader.text(1)),
    b"\x8d": ("BINUNICODE8", lambda reader: reader.text(8)),
    b"B": ("BINBYTES", lambda reader: reader.sized(4)),
    b"C": ("SHORT_BINBYTES", lambda reader: reader.sized(1)),
    b"\x8e": ("BINBYTES8", lambda reader: reader.sized(8)),
    b"\x96": ("BYTEARRAY8", lambda reader: reader.sized(8)),
    b"c": ("GLOBAL", lambda reader: reader.global_name()),
    b"\x93": ("STACK_GLOBAL", _nothing),
    b"R": ("REDUCE", _nothing),
    b"b": ("BUILD", _nothing),
    b"p": ("PUT", lambda reader: reader.integer()),
    b"q": ("BINPUT", lambda reader: reader.number(1)),
    b"r": ("LONG_BINPUT", lambda reader: reader.number(4)),
    b"\x94": ("MEMOIZE", _nothing),
    b"g": ("GET", lambda reader: reader.integer()),
    b"h": ("BINGET", lambda reader: reader.number(1)),
    b"j": ("LONG_BINGET", lambda reader: reader.number(4)),
}
