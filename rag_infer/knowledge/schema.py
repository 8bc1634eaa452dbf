"""The tables of the record, and the two things that hold for all of it: settings and state."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError

FORMAT_VERSION = 1

SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL, passages INTEGER NOT NULL, rows INTEGER NOT NULL, generation INTEGER NOT NULL,
    snapshot TEXT NOT NULL, snapshot_sha256 TEXT NOT NULL);
CREATE TABLE passages (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, text TEXT NOT NULL,
    metadata TEXT NOT NULL, digest BLOB NOT NULL);
CREATE TABLE dead (row INTEGER PRIMARY KEY, revision INTEGER NOT NULL);
CREATE INDEX dead_by_revision ON dead (revision);
CREATE TABLE blocks (
    first_row INTEGER PRIMARY KEY, rows INTEGER NOT NULL, checksum BLOB NOT NULL, encoded INTEGER NOT NULL);
CREATE TABLE labels (digest BLOB NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (digest, row)) WITHOUT ROWID;
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a knowledge base is made for; fixed but for ``index``.

    Attributes:
        format_version: this version reads formats up to `FORMAT_VERSION`.
        created_by, created: the program and the time (UTC).
        encoder: fingerprint of the passage encoder.
        dim, similarity: of its vectors.
        index: "auto", "exact" or "hnsw".
        rows_per_segment: vectors in one file.
    """

    format_version: int = FORMAT_VERSION
    created_by: str
    created: str
    encoder: str
    dim: int
    similarity: str
    index: str
    rows_per_segment: int


@dataclass(frozen=True)
class State:
    """What changes from commit to commit.

    Attributes:
        revision: number of the last commit that changed passages.
        passages: how many there are.
        rows: vectors that count, those of replaced and deleted passages included.
        generation: number of the set of vector files; compacting makes a new one.
        snapshot, snapshot_sha256: folder of the HNSW snapshot and checksum of its index, or "".
    """

    revision: int = 0
    passages: int = 0
    rows: int = 0
    generation: int = 1
    snapshot: str = ""
    snapshot_sha256: str = ""


def read_settings(connection: sqlite3.Connection, path: Path) -> Settings:
    """The settings.

    Raises:
        KnowledgeBaseError: a newer format.
        CorruptIndexError: no settings, or others than expected.
    """
    values = {name: json.loads(value) for name, value in connection.execute("SELECT * FROM settings")}
    version = values.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise KnowledgeBaseError(
            f"{path} has format_version {version}, this rag_infer reads up to {FORMAT_VERSION}: upgrade it"
        )
    expected = {f.name for f in fields(Settings)}
    if values.keys() != expected:
        differing = ", ".join(sorted(values.keys() ^ expected))
        raise CorruptIndexError(f"{path} lacks settings or has unknown ones: {differing}")
    return Settings(**values)


def write_index_kind(connection: sqlite3.Connection, kind: str) -> None:
    """Change the kind of index."""
    connection.execute("UPDATE settings SET value = ? WHERE name = 'index'", (json.dumps(kind),))


def read_state(connection: sqlite3.Connection) -> State:
    """The state at the connection's snapshot."""
    names = ", ".join(f.name for f in fields(State))
    return State(*connection.execute(f"SELECT {names} FROM state").fetchone())


def write_state(connection: sqlite3.Connection, state: State) -> None:
    """Replace the state."""
    names = ", ".join(f"{f.name} = ?" for f in fields(State))
    connection.execute(f"UPDATE state SET {names}", astuple(state))
