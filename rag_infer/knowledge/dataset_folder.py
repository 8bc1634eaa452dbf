"""A folder that Hugging Face ``datasets`` has saved, with texts and embeddings, read by pyarrow alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import VectorFileError
from rag_infer.knowledge.corpus_line import BadLineError, from_entry
from rag_infer.knowledge.passage import Passage
from rag_infer.knowledge.vector_files import VECTORS_AT_ONCE, VectorBatch, as_float32

STATE = "state.json"
EMBEDDINGS = "embeddings"
MAX_STATE_BYTES = 10_000_000

# Types whose rows may share their bytes: as Python values a small file of them could take any amount of memory.
SHARING = ("dictionary<", "run_end_encoded<", "list_view<", "large_list_view<", "string_view", "binary_view")


def read_dataset(folder: Path) -> Iterator[VectorBatch]:
    """Passages with their vectors, from the columns text, embeddings and, where there are such, id, title, metadata.

    Without a column id, the number of the row is the id, from 0. Metadata may be JSON text, as `export_dataset`
    writes it; other columns become metadata.

    Raises:
        VectorFileError: not such a folder, a damaged file, a missing column, a row that is no passage.
    """
    try:
        import pyarrow
    except ImportError:
        raise VectorFileError(
            f"{folder}: reading a datasets folder needs pyarrow (pip install 'rag_infer[parquet]')"
        ) from None
    first = 0
    for name in _files(folder):
        path = folder / name
        try:
            with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as reader:
                _check_columns(path, reader.schema)
                for whole in reader:
                    whole.validate(full=True)  # offsets of a damaged file could point anywhere
                    for start in range(0, whole.num_rows, VECTORS_AT_ONCE):
                        batch = _batch(pyarrow, path, first, whole.slice(start, VECTORS_AT_ONCE))
                        yield batch
                        first += len(batch.vectors)
        except (OSError, pyarrow.ArrowException) as error:
            raise VectorFileError(f"{path} cannot be read as an Arrow stream: {error}") from error


def _files(folder: Path) -> list[str]:
    path = folder / STATE
    if (folder / "dataset_dict.json").is_file():
        raise VectorFileError(f"{folder} has several splits: name the folder of one of them")
    try:
        if path.stat().st_size > MAX_STATE_BYTES:
            raise ValueError(f"over {MAX_STATE_BYTES:,} bytes")
        state = json.loads(path.read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in state["_data_files"]]
        if state.get("_indices_data_files") or state.get("_indices_files"):
            raise ValueError("it has an indices mapping: save it after dataset.flatten_indices()")
        # A state may name files anywhere: only those in the folder are read.
        if not all(isinstance(name, str) and name == Path(name).name for name in names):
            raise ValueError("it names files outside the folder")
    except OSError as error:
        raise VectorFileError(f"{folder} is no datasets folder: {path} {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VectorFileError(f"{path} is not as datasets writes it: {error}") from error
    return names


def _check_columns(path: Path, schema: Any) -> None:
    names: list[str] = schema.names
    missing = [name for name in ("text", EMBEDDINGS) if name not in names]
    if missing or len(set(names)) != len(names):
        raise VectorFileError(
            f"{path} has the columns {', '.join(names)[:200]}; text and embeddings are expected, once"
        )
    for name, kind in zip(names, schema.types, strict=True):
        if _shares(kind):
            raise VectorFileError(
                f"{path}: the column {name} is of type {str(kind)[:80]}, whose rows share their contents: save it with "
                "plain columns, which datasets does by itself"
            )


def _shares(kind: Any) -> bool:
    """Whether rows of an Arrow type, or of one within it, may share their bytes."""
    kind = getattr(kind, "storage_type", kind)  # of an extension
    within = (kind.field(i).type for i in range(kind.num_fields))
    return str(kind).startswith(SHARING) or any(map(_shares, within))


def _batch(pyarrow: Any, path: Path, first: int, batch: Any) -> VectorBatch:
    column = batch.column(EMBEDDINGS)
    vectors = _matrix(pyarrow, path, first, column)
    entries = batch.drop_columns([EMBEDDINGS]).to_pylist()
    passages = [_passage(path, first + i, entry) for i, entry in enumerate(entries)]
    return VectorBatch(path, first, vectors, [p.id for p in passages], passages)


def _matrix(pyarrow: Any, path: Path, first: int, column: Any) -> NDArray[np.float32]:
    types = pyarrow.types
    kind = column.type
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        raise VectorFileError(f"{path}: the column embeddings is of type {kind}, expected lists of float32")
    values = column.flatten()
    if column.null_count or values.null_count:
        raise VectorFileError(
            f"{path}, rows {first} to {first + len(column) - 1}: embeddings with null in them"
        )
    lengths = np.asarray(column.value_lengths())
    if lengths.size and (lengths != lengths[0]).any():
        odd = int(np.flatnonzero(lengths != lengths[0])[0])
        raise VectorFileError(
            f"{path}, row {first + odd}: {lengths[odd]} dimensions, those before have {lengths[0]}"
        )
    if not types.is_floating(values.type):
        raise VectorFileError(f"{path}: embeddings of {values.type}, expected float32")
    numbers = values.to_numpy(zero_copy_only=False)
    width = int(lengths[0]) if lengths.size else 0
    return as_float32(path, numbers.reshape(len(column), width))


def _passage(path: Path, row: int, entry: dict[str, Any]) -> Passage:
    filled = {name: value for name, value in entry.items() if value is not None}
    if "id" not in filled and "_id" not in filled:
        filled["id"] = row
    metadata = filled.get("metadata")
    if isinstance(metadata, str) and metadata.startswith("{"):
        try:
            filled["metadata"] = json.loads(metadata)
        except (ValueError, RecursionError) as error:
            raise VectorFileError(f"{path}, row {row}: the metadata is not JSON: {error}") from None
    try:
        made = from_entry(filled)
    except BadLineError as bad:
        raise VectorFileError(f"{path}, row {row}: {bad.detail}") from None
    return Passage(made.id, made.text, made.title, made.metadata)
