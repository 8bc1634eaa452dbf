"""The tables of the record, and the two things that hold for all of it: settings and state."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge.checksums import digest_of

FORMAT_VERSION = 3

# BM25 over titles and texts; the texts themselves lie in `passages` alone.
LEXICAL = """
CREATE VIRTUAL TABLE lexical USING fts5(
    title, text, content='passages', content_rowid='row', tokenize='unicode61 remove_diacritics 2');
"""

# A field of a passage's metadata, for filters; `rag_infer.knowledge.fields` says what lies in kind and value.
FIELDS = """
CREATE TABLE fields (
    name TEXT NOT NULL, kind INTEGER NOT NULL, value, row INTEGER NOT NULL,
    PRIMARY KEY (name, kind, value, row)) WITHOUT ROWID;
"""

PASSAGES = """
CREATE TABLE passages (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, text TEXT NOT NULL,
    metadata TEXT NOT NULL, text_digest BLOB NOT NULL, metadata_digest BLOB NOT NULL,
    vector_digest BLOB NOT NULL, encoded INTEGER NOT NULL, checksum BLOB NOT NULL);
CREATE INDEX passages_by_text ON passages (text_digest);
"""

# Which passages have an image, and no text beside it; and what is known of all vectors of text and of images.
IMAGES = """
ALTER TABLE passages ADD COLUMN image TEXT NOT NULL DEFAULT '';
CREATE INDEX passages_with_image ON passages (title = '' AND text = '') WHERE image != '';
CREATE TABLE moments (
    modality TEXT PRIMARY KEY, revision INTEGER NOT NULL, count INTEGER NOT NULL, mean BLOB NOT NULL,
    spread BLOB NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID;
"""

STATE = """
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL, passages INTEGER NOT NULL, rows INTEGER NOT NULL, generation INTEGER NOT NULL,
    snapshot TEXT NOT NULL, snapshot_sha256 TEXT NOT NULL, scan TEXT NOT NULL, scan_sha256 TEXT NOT NULL,
    checksum BLOB NOT NULL);
"""

DEAD = """
CREATE TABLE dead (row INTEGER PRIMARY KEY, revision INTEGER NOT NULL, checksum INTEGER NOT NULL);
CREATE INDEX dead_by_revision ON dead (revision);
"""

SCHEMA = f"""
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
{STATE}
{PASSAGES}
{DEAD}
CREATE TABLE blocks (
    first_row INTEGER PRIMARY KEY, rows INTEGER NOT NULL, checksum BLOB NOT NULL, encoded INTEGER NOT NULL);
{FIELDS}
{LEXICAL}
{IMAGES}
"""

# The row of the settings that has the digest of the others.
CHECKSUM = "checksum"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a knowledge base is made for; fixed but for ``index``, ``scan`` and ``min_recall``.

    Attributes:
        format_version: this version reads formats up to `FORMAT_VERSION`.
        created_by, created: the program and the time (UTC).
        encoder: fingerprint of the passage encoder.
        dim, similarity: of its vectors.
        index: "auto", "exact" or "hnsw".
        rows_per_segment: vectors in one file.
        scan: what the exact search reads: "float32", "float16", "int8" or "auto".
        min_recall: an HNSW graph that finds a smaller share of the 10 nearest is not used.
        image_dim: of ``dim``, the last so many are an image's; 0 where there are no images.
        shared_space: whether texts and images have vectors in one space.
        part_similarity: how a text's vector and an image's are compared, "dot" or "cosine", where there are images:
            ``similarity`` is "dot" then, and each has length 1 under cosine. Else "".
    """

    format_version: int = FORMAT_VERSION
    created_by: str
    created: str
    encoder: str
    dim: int
    similarity: str
    index: str
    rows_per_segment: int
    scan: str = "auto"
    min_recall: float = 0.95
    image_dim: int = 0
    shared_space: bool = False
    part_similarity: str = ""


@dataclass(frozen=True)
class State:
    """What changes from commit to commit.

    Attributes:
        revision: number of the last commit that changed passages.
        passages: how many there are.
        rows: vectors that count, those of replaced and deleted passages included.
        generation: number of the set of vector files; compacting makes a new one.
        snapshot, snapshot_sha256: folder of the HNSW snapshot and checksum of its manifest, or "".
        scan, scan_sha256: likewise of the codes that are scanned instead of the vectors.
    """

    revision: int = 0
    passages: int = 0
    rows: int = 0
    generation: int = 1
    snapshot: str = ""
    snapshot_sha256: str = ""
    scan: str = ""
    scan_sha256: str = ""


def read_settings(connection: sqlite3.Connection, path: Path) -> Settings:
    """The settings.

    Raises:
        KnowledgeBaseError: a newer format, or an older one that was not upgraded.
        CorruptIndexError: no settings, others than expected, or altered ones.
    """
    written = read_written(connection, path)
    version = read_version(written, path)
    if version < FORMAT_VERSION:
        raise KnowledgeBaseError(f"{path} has format_version {version}: open it where it can be written")
    expected = {f.name for f in fields(Settings)}
    checksum = written.pop(CHECKSUM, "")
    if written.keys() != expected:
        differing = ", ".join(sorted(written.keys() ^ expected))
        raise CorruptIndexError(f"{path} lacks settings or has unknown ones: {differing}")
    demand_unaltered(written, checksum, path)
    return Settings(**{name: json.loads(value) for name, value in written.items()})


def read_written(connection: sqlite3.Connection, path: Path) -> dict[str, str]:
    """The settings as they are written, whatever the format.

    Raises:
        CorruptIndexError: something in them is no text.
    """
    rows = connection.execute("SELECT name, value FROM settings").fetchall()
    if not all(isinstance(part, str) for row in rows for part in row):
        raise CorruptIndexError(f"{path}: the settings are not as they were written: {rows}")
    return dict(rows)


def read_version(written: Mapping[str, str], path: Path) -> int:
    """The format's version of a record with these settings.

    Raises:
        KnowledgeBaseError: a newer format.
        CorruptIndexError: none.
    """
    version = written.get("format_version", "")
    if not (version.isascii() and version.isdigit() and int(version)):
        raise CorruptIndexError(f"{path} has the format_version {version!r}, which is none")
    if int(version) > FORMAT_VERSION:
        raise KnowledgeBaseError(
            f"{path} has format_version {version}, this rag_infer reads up to {FORMAT_VERSION}: upgrade it"
        )
    return int(version)


def write_settings(connection: sqlite3.Connection, settings: Settings) -> None:
    """Replace the settings."""
    values = {f.name: json.dumps(getattr(settings, f.name)) for f in fields(settings)}
    values[CHECKSUM] = _settings_checksum(values)
    connection.execute("DELETE FROM settings")
    connection.executemany("INSERT INTO settings VALUES (?, ?)", list(values.items()))


def read_state(connection: sqlite3.Connection) -> State:
    """The state at the connection's snapshot.

    Raises:
        CorruptIndexError: it is not as it was written.
    """
    names = ", ".join(f.name for f in fields(State))
    found = connection.execute(f"SELECT {names}, checksum FROM state").fetchone()
    if found is None or digest_of(found[:-1]) != found[-1]:
        raise CorruptIndexError(f"the record's state is not as it was written: {found}")
    return State(*found[:-1])


def write_state(connection: sqlite3.Connection, state: State) -> None:
    """Replace the state."""
    values = astuple(state)
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT OR REPLACE INTO state VALUES (1, {marks}, ?)", (*values, digest_of(values)))


def demand_unaltered(written: Mapping[str, str], checksum: str, path: Path) -> None:
    """Compare settings with their checksum.

    Raises:
        CorruptIndexError: they differ.
    """
    if _settings_checksum(written) != checksum:
        raise CorruptIndexError(f"{path}: the settings are not as they were written: {written}")


def _settings_checksum(written: Mapping[str, str]) -> str:
    return digest_of([part for name in sorted(written) for part in (name, written[name])]).hex()
