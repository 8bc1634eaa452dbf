"""Pickled vectors read as data: equal to what ``pickle`` reads, and never executed, whatever the file."""

from __future__ import annotations

import collections
import datetime
import io
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from rag_infer.errors import VectorFileError
from rag_infer.knowledge.pickle_budget import Budget
from rag_infer.knowledge.pickle_values import NotDataError
from rag_infer.knowledge.safe_pickle import read_pickled_vectors

RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path, data: bytes) -> list[tuple[Any, Any]]:
    path.write_bytes(data)
    return list(read_pickled_vectors(path))


def refused(path: Path, data: bytes) -> str:
    with pytest.raises(VectorFileError) as caught:
        read(path, data)
    message = str(caught.value)
    assert str(path) in message
    assert "byte " in message
    return message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "vectors_0"


class Audit:
    """Notes what Python's audit hook tells while it is on: imports, calls to pickle, programs started."""

    def __init__(self) -> None:
        self.on = False
        self.events: list[str] = []
        sys.addaudithook(self._note)  # cannot be removed again: it does nothing while off

    def _note(self, event: str, arguments: object) -> None:
        if self.on and event.startswith(("import", "pickle", "exec", "compile", "os.system", "subprocess")):
            self.events.append(event)

    def __enter__(self) -> Audit:
        self.on, self.events = True, []
        return self

    def __exit__(self, *error: object) -> None:
        self.on = False


AUDIT = Audit()


def dpr(count: int, dim: int = 768, *, dtype: Any = np.float32) -> list[tuple[Any, Any]]:
    """What DPR's generate_dense_embeddings.py writes: rows of a batch's array with the passages' ids."""
    rows = np.random.default_rng(0).standard_normal((count, dim)).astype(dtype)
    return [(f"{i}", rows[i]) for i in range(count)]


identities = st.one_of(
    st.text(max_size=20),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.integers(min_value=-(2**63), max_value=2**63 - 1).map(np.int64),
    st.integers(min_value=0, max_value=255).map(np.uint8),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5).map(np.str_),
)
vectors = numpy_strategies.arrays(
    dtype=st.sampled_from([np.float16, np.float32, np.float64]), shape=st.integers(0, 40)
)


@given(
    pairs=st.lists(st.tuples(identities, vectors), max_size=20),
    protocol=st.integers(0, 5),
    slices=st.booleans(),
    frozen=st.booleans(),
    optimised=st.booleans(),
    framed=st.booleans(),
)
@RELAXED
def test_equal_to_what_pickle_reads(
    file: Path, pairs: Any, protocol: int, slices: bool, frozen: bool, optimised: bool, framed: bool
) -> None:
    chosen = [(i, v[::2] if slices else v) for i, v in pairs]
    for _, vector in chosen:
        vector.flags.writeable = not frozen
    if (
        "dill" in sys.modules
    ):  # which `datasets` imports, and which changes how the standard pickler writes types
        sys.modules["dill"].extend(use_dill=False)
    if framed:  # the pickler of pure Python orders memo entries in its own way
        stream = io.BytesIO()
        pickle._Pickler(stream, protocol).dump(chosen)  # type: ignore[attr-defined]
        data = stream.getvalue()
    else:
        data = pickle.dumps(chosen, protocol)
    if optimised:
        data = pickletools.optimize(data)
    expected = pickle.loads(data)
    found = read(file, data)
    assert [i for i, _ in found] == [i for i, _ in expected]
    assert all(type(i) in (int, str) for i, _ in found)
    for (_, vector), (_, wanted) in zip(found, expected, strict=True):
        assert vector.dtype == wanted.dtype
        assert vector.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("protocol", range(6))
def test_shared_objects_and_long_lists(file: Path, protocol: int) -> None:
    vector = np.arange(5, dtype=np.float32)
    pairs = [(i, vector) for i in range(2500)]  # the same array each time: a memo entry that is used again
    found = read(file, pickle.dumps(pairs, protocol))
    assert [i for i, _ in found] == list(range(2500))
    assert all((v == vector).all() for _, v in found)


@pytest.mark.parametrize("protocol", range(6))
def test_random_damage_is_an_error_and_nothing_is_called(file: Path, protocol: int) -> None:
    data = pickle.dumps([*dpr(3, 8), (np.int64(7), np.ones(8, np.float16))], protocol)
    whole = read(file, data)
    assert len(whole) == 4
    generator = random.Random(protocol)
    refusals = 0
    for _ in range(1500):
        damaged = bytearray(data)
        for _ in range(generator.choice((1, 1, 2, 8))):
            at = generator.randrange(len(damaged))
            how = generator.randrange(4)
            if how == 0:
                damaged[at] = generator.randrange(256)
            elif how == 1:
                damaged[at:at] = bytes([generator.randrange(256)])
            elif how == 2:
                del damaged[at]
            else:
                damaged[at : at + 8] = generator.choice(
                    (b"\xff" * 8, b"\x8e" + b"\x7f" * 8, b"R", b"\x93", b"e")
                )
        file.write_bytes(damaged)
        with AUDIT:
            try:
                found = list(read_pickled_vectors(file))
            except VectorFileError:
                refusals += 1
            else:
                assert all(isinstance(i, int | str) and v.ndim == 1 for i, v in found)
        assert not AUDIT.events
    assert refusals > 500


@given(data=st.binary(max_size=200))
@RELAXED
def test_random_bytes(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    try:
        found = list(read_pickled_vectors(file))
    except VectorFileError:
        return
    assert found == []


@pytest.mark.parametrize("length", [0, 1, 5, 100, -40, -2, -1])
@pytest.mark.parametrize("protocol", range(6))
def test_files_cut_short(file: Path, length: int, protocol: int) -> None:
    refused(file, pickle.dumps(dpr(5, 16), protocol)[:length])


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch executed",), "system"),
        (subprocess.Popen, (["touch", "executed"],), "Popen"),
        (eval, ("open('executed', 'w')",), "eval"),
        (getattr, ("text", "upper"), "getattr"),
        (collections.OrderedDict, ([],), "OrderedDict"),
        (np.load, ("x.npy", None, True), "load"),
        (np.frombuffer, (b"abcd", "f4"), "frombuffer"),
    ],
)
def test_calls_are_refused_by_name(
    file: Path,
    protocol: int,
    function: Any,
    arguments: Any,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(file.parent)
    pairs = [*dpr(1, 4), (Calls(function, *arguments), np.ones(4, np.float32))]
    data = pickle.dumps(pairs, protocol)
    file.write_bytes(data)
    with AUDIT:
        message = refused_file(file)
    assert f"{name}'" in message
    assert "GLOBAL: it names" in message
    assert not AUDIT.events
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_the_position_is_that_of_the_opcode(file: Path) -> None:
    data = b"\x80\x02]q\x00cos\nsystem\nX\x04\x00\x00\x00true\x85R."
    assert f"{file}, byte 5: GLOBAL: it names 'os system'" in refused(file, data)
    data = b"\x80\x02]q\x00\x82\x01."
    assert f"{file}, byte 5: the opcode b'\\x82' has no place" in refused(file, data)


def frombuffer(*arguments: Any) -> Any:
    return Calls(np._core.numeric._frombuffer, *arguments)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"1": np.ones(2, np.float32)}, "has no place"),
        ("text", "without being a list"),
        ([("1", [1.0, 2.0])], "has no place"),
        ([("1", (1, 2))], "a list item .str, tuple. of 2, expected .id, vector."),
        ([["1", np.ones(2, np.float32)]], "a second list"),
        ([("1",)], "a list item .str. of 1"),
        ([("1", np.ones(2, np.float32), 3)], "of 3, expected"),
        ([(True, np.ones(2, np.float32))], "expected .id, vector."),
        ([(b"1", np.ones(2, np.float32))], "expected .id, vector."),
        ([("1", np.ones((2, 2), np.float32))], "an array of 2 dimensions"),
        ([("1", np.array(1, np.float32))], "an array of 0 dimensions"),
        ([("1", np.ones(2, ">f4"))], "little-endian"),
        ([("1", np.ones(2, np.int32))], "an array of dtype <i4"),
        (
            [("1", np.array([{}, None]))],
            "the dtype 'O8', which is no plain number|has no place",
        ),
        ([("1", np.ones(2, [("a", "f4")]))], "the dtype 'V4'|has no place"),
        ([("1", datetime.date(2020, 1, 1))], "'datetime date'"),
        ([("1", np.float32(1))], "a scalar of dtype f4"),
    ],
)
def test_other_contents_are_refused(file: Path, value: Any, message: str) -> None:
    for protocol in (2, 4, 5):
        with pytest.raises(VectorFileError, match=message):
            read(file, pickle.dumps(value, protocol))


def test_shapes_that_their_bytes_do_not_have(file: Path) -> None:
    dtype = np.dtype(np.float32)
    for shape in [(10**9,), (-1,), (10**30,)]:
        data = pickle.dumps([("1", frombuffer(bytearray(16), dtype, shape, "C"))], 5)
        assert "16 bytes for" in refused(file, data)


def nested_memo(levels: int) -> bytes:
    """A billion laughs: each level is a tuple of two of the one before."""
    data = b"\x80\x02]q\x00(" + b")q\x01"
    for level in range(1, levels):
        data += b"h" + bytes([level]) + b"\x86q" + bytes([level + 1])
    return data + b"e."


CRAFTED = {
    "billion laughs": nested_memo(200),
    "deep": b"\x80\x02](" + b")" + b"\x85" * 100_000 + b"e.",
    "deep in a call": b"\x80\x02](cnumpy\ndtype\n)" + b"\x85" * 100_000 + b"Re.",
    "deep and kept": b"\x80\x02](K\x01)" + b"\x85" * 100_000 + b"q\x01h\x01\x86e.",
    "marks": b"\x80\x02](" + b"(" * 100_000 + b".",
    "values without end": b"\x80\x02](" + b"K\x01" * 100_000 + b"e.",
    "one entry, many times": b"\x80\x02]("
    + b"X\x00\x00\x10\x00"
    + b"x" * (1 << 20)
    + b"q\x01"
    + b"h\x01" * 50_000
    + b"e.",
    "a length of 2**63": b"\x80\x04](\x8e" + struct.pack("<Q", 2**63) + b"e.",
    "a length of 2**31": b"\x80\x04](B" + struct.pack("<I", 2**31) + b"x" * 100 + b"e.",
    "a length over the limit": b"\x80\x04](B" + struct.pack("<I", 3_000_000) + b"x" * 3_000_000 + b"e.",
    "a frame of 2**63": b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"](e",
    "digits": b"(lI" + b"9" * 1_000_000 + b"\na.",
    "digits, hexadecimal": b"(lI0x10\na.",
    "a line without end": b"(lV" + b"x" * 3_000_000,
    "a name without end": b"(lc" + b"x" * 3_000_000,
    "many memo entries": b"\x80\x02](" + b"".join(b"j" + struct.pack("<I", i) for i in range(2_001)) + b"e.",
    "text that is not UTF-8": b"\x80\x02](X\x01\x00\x00\x00\xffe.",
    "after the end": pickle.dumps(dpr(1, 4)) * 2,
    "too few values": b"\x80\x02]a.",
    "a tuple out of a mark": b"\x80\x02]K\x01(\x86e.",
    "no mark": b"\x80\x02]K\x01e.",
    "items for a list below": b"\x80\x02](](e.",
    "no list": b"\x80\x02.",
    "an entry that was never made": b"\x80\x02](h\x07e.",
    "a global of numbers": b"\x80\x04](K\x01K\x02\x93e.",
    "an array given contents twice": pickle.dumps(dpr(1, 4), 2).replace(b"b\x86", b"NbN\x86"),
    "a list in itself": b"\x80\x02]q\x00(h\x00K\x01\x86e.",
    "protocol 9": b"\x80\x09]e.",
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_files_are_errors_and_take_no_memory(
    file: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Lower limits than the real ones: a million opcodes take seconds.
    monkeypatch.setattr("rag_infer.knowledge.pickle_budget.MAX_HELD_BYTES", 4_000_000)
    monkeypatch.setattr("rag_infer.knowledge.safe_pickle.MAX_MEMO_ENTRIES", 2_000)
    file.write_bytes(CRAFTED[name])
    tracemalloc.start()
    try:
        message = refused_file(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(message) < 600
    assert peak < 30_000_000


def refused_file(file: Path) -> str:
    with pytest.raises(VectorFileError) as caught:
        for _ in read_pickled_vectors(file):
            pass
    return str(caught.value)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_memory_does_not_grow_with_the_file(file: Path, protocol: int) -> None:
    with file.open("wb") as stream:
        pickle.dump(dpr(5_000, 768), stream, protocol)
    assert file.stat().st_size > 15_000_000
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_pickled_vectors(file))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 5_000
    assert peak < 10_000_000


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(VectorFileError, match="cannot be read: No such file"):
        list(read_pickled_vectors(tmp_path / "none"))


def test_wide_characters_count_for_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_infer.knowledge.pickle_budget.MAX_HELD_BYTES", 100_000)
    Budget().add("x" * 50_000)
    with pytest.raises(NotDataError, match="would have to be held in memory"):
        Budget().add("x" * 50_000 + "\U0001f600")
