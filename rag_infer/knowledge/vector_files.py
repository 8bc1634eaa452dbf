"""Files of ready vectors, some hundreds at a time: NumPy arrays, DPR's pickles, folders of Hugging Face ``datasets``.

float32 is taken as it is and float16 is widened, which is exact. float64 would be rounded, so it is refused: convert
such files where they are made. No pickle is ever loaded, whatever the file.
"""

from __future__ import annotations

import json
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import VectorFileError
from rag_infer.knowledge.passage import Passage, check_text
from rag_infer.knowledge.safe_pickle import read_pickled_vectors

VECTORS_AT_ONCE = 512
MAX_ID_LINE_BYTES = 100_000


@dataclass(frozen=True)
class VectorBatch:
    """Some vectors of a file.

    Attributes:
        path: the file.
        first: number of the first one in it, from 0.
        vectors: float32 ``[vectors, width]``, finite.
        ids: of their passages, or None where their order says which these are.
        passages: themselves, where the file has texts, else None.
    """

    path: Path
    first: int
    vectors: NDArray[np.float32]
    ids: list[str] | None
    passages: list[Passage] | None = None


def read_vectors(path: Path, *, dim: int, ids: Path | None = None) -> Iterator[VectorBatch]:
    """The vectors of a file or folder.

    Args:
        path: a folder of ``datasets``, a ``.npy`` file, or else a pickle as DPR writes it.
        dim: width they must have.
        ids: for a ``.npy`` file, the ids of its rows: one a line, as text or (``.jsonl``) as JSON.

    Raises:
        VectorFileError: not such a file, another width or dtype, NaN or infinity; the message has the vector's number.
    """
    if path.is_dir():
        from rag_infer.knowledge.dataset_folder import read_dataset

        return _checked(read_dataset(path), dim)
    if not path.is_file():
        raise VectorFileError(f"no such file of vectors: {path}")
    if path.suffix == ".npy":
        return _checked(_read_numpy(path, ids), dim)
    return _checked(_read_pickle(path, dim), dim)


def as_float32(path: Path, vectors: NDArray[Any]) -> NDArray[np.float32]:
    """The same numbers as float32.

    Raises:
        VectorFileError: they are neither float32 nor float16, of this machine's byte order.
    """
    if vectors.dtype not in (np.dtype(np.float32), np.dtype(np.float16)):
        raise VectorFileError(
            f"{path} has vectors of dtype {vectors.dtype}, expected float32 or float16: write it again after "
            "vectors.astype(numpy.float32)"
        )
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _checked(batches: Iterator[VectorBatch], dim: int) -> Iterator[VectorBatch]:
    for batch in batches:
        if batch.vectors.shape[1] != dim:
            raise VectorFileError(
                f"{batch.path}, vector {batch.first}: {batch.vectors.shape[1]} dimensions, "
                f"the knowledge base has {dim}"
            )
        bad = np.flatnonzero(~np.isfinite(batch.vectors).all(axis=1))
        if bad.size:
            raise VectorFileError(f"{batch.path}, vector {batch.first + bad[0]}: it holds NaN or infinity")
        yield batch


def _read_pickle(path: Path, dim: int) -> Iterator[VectorBatch]:
    pairs = read_pickled_vectors(path)
    first = 0
    while chunk := list(islice(pairs, VECTORS_AT_ONCE)):
        for number, (id_, vector) in enumerate(chunk, first):
            if isinstance(id_, str) and not _is_text(id_):
                raise VectorFileError(f"{path}, vector {number}: its id {id_!r} is no Unicode text")
            if len(vector) != dim:
                raise VectorFileError(
                    f"{path}, vector {number}: {len(vector)} dimensions, the knowledge base has {dim}"
                )
        vectors = np.stack([as_float32(path, vector) for _, vector in chunk])
        yield VectorBatch(path, first, vectors, [str(i) for i, _ in chunk])
        first += len(chunk)


def _is_text(id_: str) -> bool:
    """Whether there is no lone surrogate in it, which a pickle may have."""
    return not any("\ud800" <= character <= "\udfff" for character in id_)


def _read_numpy(path: Path, ids: Path | None) -> Iterator[VectorBatch]:
    rows = _map_numpy(path)
    names = None if ids is None else _read_ids(ids)
    for first in range(0, len(rows), VECTORS_AT_ONCE):
        vectors = as_float32(path, rows[first : first + VECTORS_AT_ONCE])
        chosen = None if names is None else list(islice(names, len(vectors)))
        if chosen is not None and len(chosen) < len(vectors):
            raise VectorFileError(f"{ids} has {first + len(chosen)} ids, {path} has {len(rows)} vectors")
        yield VectorBatch(path, first, vectors, chosen)
    if names is not None and (left := sum(1 for _ in names)):
        raise VectorFileError(f"{ids} has {len(rows) + left} ids, {path} has {len(rows)} vectors")


def _map_numpy(path: Path) -> NDArray[Any]:
    """The array, mapped into memory."""
    # The header is a Python literal; what a damaged one makes NumPy raise is all of this.
    malformed = (
        ValueError,
        TypeError,
        EOFError,
        OverflowError,
        SyntaxError,
        RecursionError,
        MemoryError,
        KeyError,
        FloatingPointError,  # a shape of more bytes than there are numbers for
    )
    try:
        with np.errstate(all="raise"):
            # Unlike numpy.load it knows neither pickles nor archives.
            rows: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise VectorFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except (*malformed, tokenize.TokenError) as error:
        raise VectorFileError(f"{path} is no whole .npy file of numbers: {error}") from error
    if rows.ndim != 2:
        raise VectorFileError(
            f"{path} has an array of shape {list(np.shape(rows))}, expected [vectors, dimensions]"
        )
    as_float32(path, rows[:0])
    return np.asarray(rows)


def _read_ids(path: Path) -> Iterator[str]:
    """The ids, one a line: text, or in ``.jsonl`` a string, a whole number or an object with id or _id."""
    as_json = path.suffix == ".jsonl"
    try:
        with path.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_ID_LINE_BYTES):
                number += 1
                yield _id(line, as_json=as_json)
    except OSError as error:
        raise VectorFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise VectorFileError(f"{path}, line {number}: {error}") from error


def _id(line: bytes, *, as_json: bool) -> str:
    if len(line) == MAX_ID_LINE_BYTES and not line.endswith(b"\n"):
        raise ValueError(f"a line of over {MAX_ID_LINE_BYTES:,} bytes")
    text = line.rstrip(b"\r\n").decode("utf-8")
    value = json.loads(text) if as_json else text
    if isinstance(value, dict):
        value = value.get("_id", value.get("id"))
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError(f"an id is expected, found {line[:40]!r}")
    check_text("the id", str(value))  # JSON can escape half a character
    return str(value)
