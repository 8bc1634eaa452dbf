"""A knowledge base as files for other programs: JSON lines, and a folder that Hugging Face ``datasets`` loads.

Both are of one revision, are written some hundreds of passages at a time under another name, and get theirs when they
are whole.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import KnowledgeBaseError
from rag_infer.images.image import Image
from rag_infer.knowledge.passage import Passage
from rag_infer.knowledge.revision import Revision, holding_revision
from rag_infer.knowledge.whole import made_whole
from rag_infer.knowledge.writer import Writer

PASSAGES_AT_ONCE = 256
PASSAGES_PER_FILE = 100_000


def export_jsonl(source: Writer, path: Path, *, embeddings: bool = False) -> int:
    """Write passages as JSON lines that `index build` reads back; returns how many.

    A line has id, title, text and metadata, with ``embeddings`` the stored vector too (`index build` would take that
    for metadata: it is for other programs). A path that ends in ``.gz`` is compressed. Images are written to a folder
    beside it, ``PATH.images``, and named in ``image``; those that are only referenced are named where they are.

    Raises:
        KnowledgeBaseError: the file exists, or cannot be written. Nothing half made is left.
        CorruptIndexError: a vector file is missing or too short, or something in it is not as it was written.
    """
    count = 0
    with (
        _whole(path, folder=False) as temporary,
        holding_revision(source.record, source.segments) as revision,
        _Images(path) as images,
        _open(temporary, compressed=path.name.lower().endswith(".gz")) as stream,
    ):
        for passages, vectors in _batches(revision, embeddings=embeddings):
            for i, passage in enumerate(passages):
                entry: dict[str, Any] = {"id": passage.id, "title": passage.title, "text": passage.text}
                entry["metadata"] = dict(passage.metadata)
                if passage.image is not None:
                    entry["image"] = images.named(source.images.located(passage).image)
                if vectors is not None:
                    entry["embeddings"] = vectors[i].tolist()
                stream.write(json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            count += len(passages)
    return count


class _Images:
    """The folder of images beside a file of passages; made with the first, and whole before the file has its name."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.images")
        self._whole = contextlib.ExitStack()
        self._temporary: Path | None = None

    def named(self, image: Image) -> str:
        """Where the image is, as the line says it."""
        if image.referenced:
            return image.path
        if self._temporary is None:
            self._temporary = self._whole.enter_context(_whole(self._path, folder=True))
            self._temporary.mkdir()
        if not (self._temporary / image.sha256).exists():
            with _open(self._temporary / image.sha256) as stream:
                stream.write(image.read_bytes())
        return f"{self._path.name}/{image.sha256}"

    def __enter__(self) -> _Images:
        self._whole.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._whole.__exit__(kind, error, trace)


def export_dataset(source: Writer, folder: Path) -> int:
    """Write a folder for ``datasets.load_from_disk``; returns the number of passages.

    Columns: id, title, text, metadata (JSON text), embeddings (a list of ``dim`` float32), as transformers' RAG
    retriever expects of a custom index (title, text, embeddings).

    Raises:
        KnowledgeBaseError: the folder exists and is not empty, cannot be written, or pyarrow is missing; a passage has
            an image, for which such a folder has no place.
        CorruptIndexError: a vector file is missing or too short, or something in it is not as it was written.
    """
    try:
        import pyarrow
    except ImportError:
        raise KnowledgeBaseError(
            f"{folder}: a datasets folder needs pyarrow (pip install 'rag_infer[parquet]')"
        ) from None
    with (
        _whole(folder, folder=True) as temporary,
        holding_revision(source.record, source.segments) as revision,
    ):
        _demand_no_images(revision, folder)
        temporary.mkdir()
        schema = _schema(pyarrow, dim=revision.dim)
        passages = revision.state.passages
        files = max(1, -(-passages // PASSAGES_PER_FILE))
        names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
        batches = _batches(revision, embeddings=True)
        for name in names:
            with _open(temporary / name) as stream, pyarrow.ipc.new_stream(stream, schema) as writer:
                written = 0
                while written < PASSAGES_PER_FILE and (batch := next(batches, None)):
                    writer.write_batch(_record_batch(pyarrow, schema, *batch))
                    written += len(batch[0])
        _describe(temporary, names, dim=revision.dim)
    return passages


def _demand_no_images(revision: Revision, folder: Path) -> None:
    found = revision.connection.execute("SELECT id FROM passages WHERE image != '' LIMIT 1").fetchone()
    if found is not None:
        raise KnowledgeBaseError(
            f"{folder}: passage {found[0]!r} has an image, and a datasets folder has texts alone: export JSON lines"
        )


@contextlib.contextmanager
def _whole(path: Path, *, folder: bool) -> Iterator[Path]:
    """Another name to write to, which becomes the path at the end, or vanishes."""
    try:
        with made_whole(path, folder=folder) as temporary:
            yield temporary
    except OSError as error:
        raise KnowledgeBaseError(f"{path} could not be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _open(path: Path, *, compressed: bool = False) -> Iterator[IO[bytes]]:
    """A new file that is on the disk when it is closed."""
    with path.open("xb") as stream:
        if compressed:
            # No name and no time in it: equal contents give equal files.
            with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed:
                yield packed  # type: ignore[misc]
        else:
            yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _batches(
    revision: Revision, *, embeddings: bool
) -> Iterator[tuple[list[Passage], NDArray[np.float32] | None]]:
    """(passages, their vectors float32 ``[passages, dim]`` or None), by age."""
    for entries in revision.entries(PASSAGES_AT_ONCE):
        yield [entry.passage for entry in entries], revision.vectors_of(entries) if embeddings else None


def _features(dim: int) -> dict[str, Any]:
    """The columns, as ``datasets`` describes them."""
    text = {"dtype": "string", "_type": "Value"}
    number = {"dtype": "float32", "_type": "Value"}
    # "Sequence" is read by all versions of datasets; "List" only since 4.
    vectors = {"feature": number, "length": dim, "_type": "Sequence"}
    return {"id": text, "title": text, "text": text, "metadata": text, "embeddings": vectors}


def _schema(pyarrow: Any, *, dim: int) -> Any:
    text = pyarrow.string()
    columns = [(name, text) for name in ("id", "title", "text", "metadata")]
    columns.append(("embeddings", pyarrow.list_(pyarrow.float32(), dim)))
    return pyarrow.schema(columns, {"huggingface": json.dumps({"info": {"features": _features(dim)}})})


def _record_batch(pyarrow: Any, schema: Any, passages: list[Passage], vectors: Any) -> Any:
    metadata = [json.dumps(dict(p.metadata), ensure_ascii=False, allow_nan=False) for p in passages]
    values = pyarrow.array(np.ascontiguousarray(vectors).reshape(-1))
    return pyarrow.record_batch(
        [
            [p.id for p in passages],
            [p.title for p in passages],
            [p.text for p in passages],
            metadata,
            pyarrow.FixedSizeListArray.from_arrays(values, vectors.shape[1]),
        ],
        schema=schema,
    )


def _describe(folder: Path, names: list[str], *, dim: int) -> None:
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": uuid.uuid4().hex[:16],  # names the dataset in the caches of datasets
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    info = {"citation": "", "description": "", "features": _features(dim), "homepage": "", "license": ""}
    for name, content in (("state.json", state), ("dataset_info.json", info)):
        with _open(folder / name) as stream:
            stream.write(json.dumps(content, indent=2).encode())
