"""Corpus files to passages, one at a time: JSON lines, tab-separated values, Parquet, folders of images.

Memory stays bounded whatever the file: lines are read up to a limit, and the ids seen lie in a temporary database.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from rag_infer.errors import CorpusError
from rag_infer.knowledge.chunk import Chunker
from rag_infer.knowledge.corpus_line import (
    DOCUMENTS,
    PASSAGES,
    BadLineError,
    EntryKind,
    ImageRule,
    decode,
    from_entry,
    from_json,
)
from rag_infer.knowledge.document import Document
from rag_infer.knowledge.image_folder import image_paths, read_images
from rag_infer.knowledge.passage import Passage
from rag_infer.knowledge.temporary import no_room, temporary_database

# Rows of a Parquet file read at a time; documents can be long.
PARQUET_ROWS = {PASSAGES.name: 1024, DOCUMENTS.name: 16}
UTF8_MARK = b"\xef\xbb\xbf"

SUFFIXES = {".jsonl": ".jsonl", ".ndjson": ".jsonl", ".tsv": ".tsv", ".parquet": ".parquet"}

Parser = Callable[[bytes], Passage | Document]
Entries = Iterator[tuple[int, Callable[[], Passage | Document]]]


class Corpus:
    """The passages of some files, in order.

    Args:
        paths: ``.jsonl``, ``.ndjson``, ``.tsv`` (each also ``.gz``) or ``.parquet``; an entry's ``image`` is the path
            of a file, from the corpus file's folder on. Or folders of images (see `image_folder`).
        skip_bad_lines: count what cannot become a passage instead of raising.
        chunker: makes passages of entries that are long documents; without it each entry is a passage.
        reference_images: keep the paths of images, and not their files.
        more: passages to come after those of the files.

    Attributes:
        skipped: how many lines were skipped, by reason.

    Raises:
        CorpusError: no such file, or one of another kind. While iterating: a bad line; the message has file and line.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        skip_bad_lines: bool = False,
        chunker: Chunker | None = None,
        reference_images: bool = False,
        more: Sequence[Passage] = (),
    ) -> None:
        self.skipped: Counter[str] = Counter()
        self._chunker = chunker
        self._kind = PASSAGES if chunker is None else DOCUMENTS
        self._skip = skip_bad_lines
        self._referenced = reference_images
        self._more = more
        if chunker is not None and (more or any(path.is_dir() for path in paths)):
            raise CorpusError("images are not cut into chunks: index them by themselves, without chunking")
        self._seen = _SeenIds()
        for path in paths:
            if path.is_dir():
                image_paths(path)
                continue
            if not path.is_file():
                raise CorpusError(f"no such corpus file: {path}")
            _suffix(path)
        self._paths = list(paths)

    def __iter__(self) -> Iterator[Passage]:
        for path in self._paths:
            try:
                for number, make in self._entries(path):
                    try:
                        entry = make()
                        self._seen.add(entry.id, path, number)
                        yield from self._passages(entry)
                    except BadLineError as bad:
                        if not self._skip:
                            unit = (
                                "image" if path.is_dir() else "row" if _suffix(path) == ".parquet" else "line"
                            )
                            message = (
                                f"{path}, {unit} {number}: {bad.detail} (--skip-bad-lines counts such lines)"
                            )
                            raise CorpusError(message) from None
                        self.skipped[bad.reason] += 1
            except _read_errors() as error:
                raise CorpusError(f"{path} cannot be read: {error}") from error
        for number, passage in enumerate(self._more, 1):
            try:
                self._seen.add(passage.id, Path("--image"), number)
            except BadLineError as bad:
                raise CorpusError(f"the image {bad.detail}") from None
            yield passage

    def _entries(self, path: Path) -> Entries:
        if path.is_dir():
            return read_images(path, referenced=self._referenced)
        read = _parquet if _suffix(path) == ".parquet" else _text_lines
        return read(path, self._kind, ImageRule(folder=path.parent, referenced=self._referenced))

    def _passages(self, entry: Passage | Document) -> Iterator[Passage]:
        if self._chunker is None:
            return iter([cast(Passage, entry)])  # what its kind makes
        try:
            return self._chunker.chunks(entry)
        except ValueError as error:
            raise BadLineError("no chunks", str(error)) from None

    def total(self) -> int | None:
        """How many passages there are, bad ones included; None where only reading them all would tell."""
        if self._chunker is not None:
            return None
        counts = [len(image_paths(path)) if path.is_dir() else _count(path) for path in self._paths]
        return None if None in counts else sum(c for c in counts if c is not None) + len(self._more)

    def close(self) -> None:
        """Let go of the temporary database."""
        self._seen.close()

    def __enter__(self) -> Corpus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _SeenIds:
    """The ids of an import, by a digest of 8 bytes, with where each was seen."""

    def __init__(self) -> None:
        self._database = temporary_database(
            "CREATE TABLE seen (digest INTEGER PRIMARY KEY, path TEXT, line INTEGER)"
        )

    def add(self, id_: str, path: Path, line: int) -> None:
        digest = int.from_bytes(blake2b(id_.encode(), digest_size=8).digest(), "big", signed=True)
        with no_room(CorpusError):
            query = "INSERT OR IGNORE INTO seen VALUES (?, ?, ?)"
            name = path.name.encode("utf-8", "backslashreplace").decode()  # which need not be UTF-8
            if self._database.execute(query, (digest, name, line)).rowcount:
                return
            query = "SELECT path, line FROM seen WHERE digest = ?"
            where, first = self._database.execute(query, (digest,)).fetchone()
            raise BadLineError("repeated id", f"repeats the id {id_!r} of {where}, line {first}")

    def close(self) -> None:
        self._database.close()


def _suffix(path: Path) -> str:
    """The kind of file: ".jsonl", ".tsv" or ".parquet".

    Raises:
        CorpusError: another.
    """
    name = path.name.lower().removesuffix(".gz")
    for suffix, kind in SUFFIXES.items():
        if name.endswith(suffix) and not (kind == ".parquet" and path.name.lower().endswith(".gz")):
            return kind
    raise CorpusError(f"{path}: expected a .jsonl, .tsv (also .gz) or .parquet file")


def _count(path: Path) -> int | None:
    if _suffix(path) == ".parquet":
        return int(_parquet_file(path).metadata.num_rows)
    if path.name.lower().endswith(".gz"):
        return None
    with path.open("rb") as stream:
        lines = sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b""))
    return lines - (_suffix(path) == ".tsv")


def _text_lines(path: Path, kind: EntryKind, images: ImageRule) -> Entries:
    """(line number, what makes its entry) of each line that is not blank."""
    with _open(path) as stream:
        lines = _lines(stream, kind.max_line_bytes)
        parse: Parser = partial(from_json, kind=kind, images=images)
        if _suffix(path) == ".tsv":
            parse = _tsv_parser(path, next(lines, (1, b"")), kind, images)
        for number, line in lines:
            if line is None or line.strip():
                yield number, partial(_parse, parse, line, kind)


def _parse(parse: Parser, line: bytes | None, kind: EntryKind) -> Passage | Document:
    if line is None:
        raise BadLineError(kind.too_long, f"a line of over {kind.max_line_bytes:,} bytes")
    return parse(line)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _lines(stream: IO[bytes], max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """(number, line without its end) of each line; None for one over ``max_bytes``, which is not kept."""
    number = 0
    while line := stream.readline(max_bytes):
        number += 1
        if number == 1:
            line = line.removeprefix(UTF8_MARK)
        if len(line) < max_bytes or line.endswith(b"\n"):
            yield number, line.rstrip(b"\r\n")
            continue
        while (rest := stream.readline(max_bytes)) and not rest.endswith(b"\n"):
            pass
        yield number, None


def _tsv_parser(path: Path, header: tuple[int, bytes | None], kind: EntryKind, images: ImageRule) -> Parser:
    """The parser of a file's lines, by its first one (psgs_w100: id, text, title)."""
    names = _fields((header[1] or b"").decode("utf-8", "replace"))
    if not {"id", "_id"} & set(names) or not {"text", "contents"} & set(names):
        raise CorpusError(
            f"{path}, line 1: a header with id, text and title is expected, found {', '.join(names)[:200]!r}"
        )

    def parse(line: bytes) -> Passage | Document:
        values = _fields(decode(line))
        if len(values) != len(names):
            raise BadLineError("wrong columns", f"{len(values)} columns, the header has {len(names)}")
        return from_entry(dict(zip(names, values, strict=True)), kind, images)

    return parse


def _fields(line: str) -> list[str]:
    r"""The fields of a line. One in quotes is read as the csv module writes it: inner quotes are doubled.

    >>> _fields('1\t"Aaron (""Ahärôn"") is a prophet"\tAaron')
    ['1', 'Aaron ("Ahärôn") is a prophet', 'Aaron']
    """
    fields = []
    for field in line.split("\t"):
        inner = field[1:-1]
        if len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', ""):
            fields.append(inner.replace('""', '"'))
        else:
            fields.append(field)
    return fields


def _parquet(path: Path, kind: EntryKind, images: ImageRule) -> Entries:
    number = 0
    for batch in _parquet_file(path).iter_batches(batch_size=PARQUET_ROWS[kind.name]):
        for entry in batch.to_pylist():
            number += 1
            filled = {name: value for name, value in entry.items() if value is not None}
            yield number, partial(from_entry, filled, kind, images)


def _read_errors() -> tuple[type[Exception], ...]:
    """What reading a file may raise; Parquet's errors only where pyarrow is there."""
    try:
        from pyarrow import ArrowException
    except ImportError:
        return (OSError, EOFError, zlib.error)
    return (OSError, EOFError, zlib.error, ArrowException)


def _parquet_file(path: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise CorpusError(
            f"{path}: reading Parquet needs pyarrow (pip install 'rag_infer[parquet]')"
        ) from None
    try:
        return ParquetFile(path)
    except _read_errors() as error:
        raise CorpusError(f"{path} is no Parquet file: {error}") from error
