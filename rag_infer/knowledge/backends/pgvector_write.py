"""Changes to a knowledge base in PostgreSQL: rows are streamed into a temporary table, then merged in one go.

Writers meet at the row of state, which the merge locks; while vectors are being made nobody waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge.backends.digests import with_metadata
from rag_infer.knowledge.backends.pgvector_conditions import FALSE, fields_json, sized_sql
from rag_infer.knowledge.backends.pgvector_connection import Connection
from rag_infer.knowledge.backends.pgvector_pool import Pool
from rag_infer.knowledge.backends.pgvector_rows import (
    COLUMN_TYPES,
    COLUMNS,
    check_no_nul,
    checksum,
    key_of,
    to_passage,
    to_rows,
)
from rag_infer.knowledge.backends.pgvector_schema import Tables
from rag_infer.knowledge.backends.protocol import OvertakenError, Piece
from rag_infer.knowledge.conditions import Condition
from rag_infer.knowledge.passage import metadata_json
from rag_infer.knowledge.transaction import Upserted


def upsert(pool: Pool, tables: Tables, pieces: Iterable[Piece], *, dim: int) -> Upserted:
    """Commit passages with their vectors; those already there with the same digest are left alone.

    Pieces that are a sequence are sent again where the server was lost: writing the same passages twice comes to
    the same as writing them once, a little later. An iterator is used up, and the caller has to begin again.

    Raises:
        KnowledgeBaseError: a NUL in a text, another writer, a full disk, a lost server. Nothing is changed.
    """

    def work(connection: Connection) -> Upserted:
        connection.execute(
            "CREATE TEMP TABLE incoming (position bigint, key bytea, id text, title text, text text, metadata text, "
            f"fields jsonb, digest bytea, checksum bytea, embedding vector({dim})) ON COMMIT DROP"
        )
        connection.execute("CREATE TEMP TABLE kept (key bytea, digest bytea) ON COMMIT DROP")
        longest, count = 0.0, 0
        for piece in pieces:
            _copy(connection, piece, first=count)
            count += len(piece.passages)
            longest = max(longest, _longest(piece))
        return _merge(connection, tables, longest)

    return pool.write(work, repeatable=isinstance(pieces, Sequence))


def update_metadata(pool: Pool, tables: Tables, changes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Set fields of passages' metadata, and leave texts and vectors; returns the ids that were there."""

    def work(connection: Connection) -> set[str]:
        _lock_state(connection, tables)
        query = (
            f"SELECT id, title, text, metadata, digest, embedding FROM {tables.passages} WHERE key = ANY(%s)"
        )
        with connection.cursor(binary=True) as cursor:
            rows = cursor.execute(query, [[key_of(i) for i in changes]]).fetchall()
            values = [_described(row, changes[row[0]]) for row in rows]
            cursor.executemany(
                f"UPDATE {tables.passages} SET metadata = %s, fields = %s::text::jsonb, digest = %s, checksum = %s "
                "WHERE key = %s",
                values,
            )
        if rows:
            connection.execute(f"UPDATE {tables.state} SET revision = revision + 1")
        return {row[0] for row in rows}

    there = pool.write(work)
    return [i for i in changes if i in there]


def delete(pool: Pool, tables: Tables, ids: Sequence[str], condition: Condition | None) -> list[str]:
    """Delete passages, by ids and by a condition; returns the ids that were there, those given first."""
    where, parameters = FALSE if condition is None else sized_sql(condition)

    def work(connection: Connection) -> list[str]:
        _lock_state(connection, tables)
        query = f"DELETE FROM {tables.passages} WHERE key = ANY(%s) RETURNING id"
        named = {id_ for (id_,) in connection.execute(query, [[key_of(i) for i in ids]])}
        query = f"DELETE FROM {tables.passages} WHERE {where} RETURNING age, id"
        fitting = sorted(connection.execute(query, parameters)) if condition is not None else []
        gone = [*(i for i in ids if i in named), *(id_ for _, id_ in fitting)]
        if gone:
            connection.execute(
                f"UPDATE {tables.state} SET revision = revision + 1, passages = passages - %s", [len(gone)]
            )
        return gone

    return pool.write(work) if ids or condition is not None else []


def _described(row: tuple[Any, ...], changes: Mapping[str, Any]) -> tuple[str, str, bytes, bytes, bytes]:
    """Metadata, fields, digest, checksum and key of a row with some fields of its metadata set."""
    id_, title, text, metadata, digest, embedding = row
    passage = to_passage(id_, title, text, metadata)
    changed = replace(passage, metadata={**passage.metadata, **changes})
    check_no_nul(changed)
    other, digest = metadata_json(changed.metadata), with_metadata(digest, changed.metadata)
    seal = checksum(id_, title, text, other, digest, embedding)
    return other, fields_json(changed.metadata), digest, seal, key_of(id_)


def _copy(connection: Connection, piece: Piece, *, first: int) -> None:
    with connection.cursor() as cursor:
        statement = f"COPY incoming (position, {COLUMNS}) FROM STDIN (FORMAT BINARY)"
        with cursor.copy(statement) as copy:
            copy.set_types(["int8", *COLUMN_TYPES])
            for position, row in enumerate(to_rows(piece), first):
                copy.write_row((position, *row))
        with cursor.copy("COPY kept FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["bytea", "bytea"])
            for id_, digest in piece.kept.items():
                copy.write_row((key_of(id_), digest))


def _longest(piece: Piece) -> float:
    """The length of the longest vector, or more."""
    if not len(piece.vectors):
        return 0.0
    return float(np.linalg.norm(piece.vectors.astype(np.float64), axis=1).max()) * (1 + 1e-9)


def _merge(connection: Connection, tables: Tables, longest: float) -> Upserted:
    connection.execute(
        "DELETE FROM incoming USING incoming AS later "
        "WHERE incoming.key = later.key AND incoming.position < later.position"
    )
    rows = _lock_state(connection, tables)
    _check_kept(connection, tables)
    same = connection.execute(
        f"DELETE FROM incoming USING {tables.passages} AS known "
        "WHERE incoming.key = known.key AND incoming.digest = known.digest"
    ).rowcount
    replaced = connection.execute(
        f"DELETE FROM {tables.passages} AS known USING incoming WHERE incoming.key = known.key"
    ).rowcount
    written = connection.execute(
        f"INSERT INTO {tables.passages} (age, {COLUMNS}) "
        f"SELECT %s + row_number() OVER (ORDER BY position) - 1, {COLUMNS} FROM incoming",
        [rows],
    ).rowcount
    if written:
        connection.execute(
            f"UPDATE {tables.state} SET revision = revision + 1, passages = passages + %s, rows = rows + %s, "
            "longest = greatest(longest, %s)",
            [written - replaced, written, longest],
        )
    return Upserted(written - replaced, replaced, same)


def _check_kept(connection: Connection, tables: Tables) -> None:
    """Compare what was found as it is to be, before the lock was taken, with what it is now."""
    (changed,) = connection.execute(
        f"SELECT count(*) FROM kept LEFT JOIN {tables.passages} AS known ON kept.key = known.key "
        "WHERE known.digest IS DISTINCT FROM kept.digest"
    ).fetchone() or (0,)
    if changed:
        raise OvertakenError(
            f"{changed} passages that were as they are to be have been changed by another writer meanwhile; nothing "
            "was written: upsert again"
        )


def _lock_state(connection: Connection, tables: Tables) -> int:
    """Keep other writers out until the end of the transaction; returns the number of rows ever written."""
    found = connection.execute(f"SELECT rows FROM {tables.state} FOR UPDATE").fetchone()
    if found is None:
        raise KnowledgeBaseError(f"{tables.state} has lost its row: restore the database from a backup")
    return int(found[0])
