"""The two tables of a knowledge base in PostgreSQL, in a schema of their own, and what the one row of state says."""

from __future__ import annotations

from dataclasses import dataclass

from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge.backends.pgvector_connection import Connection
from rag_infer.knowledge.backends.pgvector_pool import Pool
from rag_infer.knowledge.backends.protocol import BackendSettings

MAX_DIM = 16_000  # of pgvector's type
MAX_INDEXED_DIM = 2_000  # of its HNSW index over float32
# A page has 8 kB, and a vector that does not fit with its row is moved out to a table that a scan reads much slower.
MAX_PLAIN_DIM = 1_800
OLDEST_PGVECTOR = (0, 8)  # which has iterative scans

INDEX = "passages_hnsw"


@dataclass(frozen=True)
class Tables:
    """The names of a knowledge base's tables, quoted, with their schema.

    The key is a digest of the id: an id may be longer than what an index can hold. ``metadata`` has the text of the
    JSON as it was given, ``fields`` what conditions look at. ``age`` rises with every passage that is written.
    """

    schema: str

    @property
    def passages(self) -> str:
        """The table of passages."""
        return f'"{self.schema}".passages'

    @property
    def state(self) -> str:
        """The table with the one row of state."""
        return f'"{self.schema}".state'

    @property
    def index(self) -> str:
        """The HNSW index, if there is one."""
        return f'"{self.schema}".{INDEX}'


@dataclass(frozen=True)
class State:
    """What changes from commit to commit.

    Attributes:
        revision: number of the last commit that changed passages.
        passages: how many there are.
        rows: how many have ever been written.
        longest: no stored vector is longer than this.
        kind: "auto", "exact" or "hnsw".
        built: whether there is a whole HNSW index.
        note: what was measured of it (see `pgvector_recall`), or None.
    """

    revision: int
    passages: int
    rows: int
    longest: float
    kind: str
    built: bool
    note: str | None

    @property
    def indexed(self) -> bool:
        """Whether searches use the index: one that has been measured, and finds enough."""
        return self.built and self.note is not None


def read_state(connection: Connection, tables: Tables) -> State:
    """The state at the transaction's snapshot.

    Raises:
        KnowledgeBaseError: the row is missing.
    """
    query = (
        "SELECT revision, passages, rows, longest, kind, EXISTS (SELECT FROM pg_index "
        "WHERE indexrelid = to_regclass(%s) AND indisvalid), obj_description(to_regclass(%s), 'pg_class') "
        f"FROM {tables.state}"
    )
    found = connection.execute(query, [tables.index, tables.index]).fetchone()
    if found is None:
        raise KnowledgeBaseError(f"{tables.state} has lost its row: restore the database from a backup")
    return State(*found)


def read_settings(pool: Pool, tables: Tables) -> BackendSettings:
    """The settings.

    Raises:
        KnowledgeBaseError: there is no knowledge base, it is of a newer format, or pgvector is too old.
    """
    place = pool.address.shown

    def read(connection: Connection) -> tuple[str, str] | None:
        if not _is_there(connection, tables):
            raise KnowledgeBaseError(f"no knowledge base at {place} (make one with 'rag-infer index build')")
        check_extension(connection, place)
        return connection.execute(f"SELECT settings, kind FROM {tables.state}").fetchone()

    found = pool.read(read)
    if found is None:
        raise KnowledgeBaseError(f"{place} has no settings: restore the database from a backup")
    settings = BackendSettings.from_json(found[0], place)
    return BackendSettings(**{**vars(settings), "index": found[1]})


def exists(pool: Pool, tables: Tables) -> bool:
    """Whether there is a knowledge base."""
    return pool.read(lambda connection: _is_there(connection, tables))


def create(pool: Pool, tables: Tables, settings: BackendSettings) -> None:
    """Make the extension, the schema and the tables, all or none of them.

    Raises:
        KnowledgeBaseError: there is one already; pgvector is not to be had; the user may not.
    """
    place = pool.address.shown
    if settings.dim > MAX_DIM:
        raise KnowledgeBaseError(
            f"pgvector holds up to {MAX_DIM:,} dimensions, the encoder has {settings.dim:,}"
        )

    def make(connection: Connection) -> None:
        # Two that make the same one at the same time: IF NOT EXISTS alone fails for one of them.
        # Also of different ones, which both need the extension.
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('rag_infer'))")
        if _is_there(connection, tables):
            raise KnowledgeBaseError(f"there is a knowledge base at {place}: open it, or choose another name")
        _make_extension(connection, place)
        # IF NOT EXISTS asks for the right to create one also where somebody has made it for this user.
        if connection.execute("SELECT to_regnamespace(%s)", [f'"{tables.schema}"']).fetchone() == (None,):
            connection.execute(f'CREATE SCHEMA "{tables.schema}"')
        for statement in _definition(tables, settings.dim):
            connection.execute(statement)
        connection.execute(
            f"INSERT INTO {tables.state} VALUES (1, %s, %s, 0, 0, 0, 0)", [settings.to_json(), settings.index]
        )

    pool.write(make)


def check_extension(connection: Connection, place: str) -> str:
    """The version of pgvector.

    Raises:
        KnowledgeBaseError: it is not installed in the database, or too old.
    """
    found = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    if found is None:
        raise KnowledgeBaseError(f"{place}: the database has no pgvector: run CREATE EXTENSION vector in it")
    version = tuple(int(part) for part in found[0].split(".")[:2])
    if version < OLDEST_PGVECTOR:
        raise KnowledgeBaseError(f"{place}: pgvector {found[0]} is too old: 0.8 or newer is needed")
    return str(found[0])


def _is_there(connection: Connection, tables: Tables) -> bool:
    query = "SELECT to_regclass(%s) IS NOT NULL AND to_regclass(%s) IS NOT NULL"
    found = connection.execute(query, [tables.state, tables.passages]).fetchone()
    return found is not None and bool(found[0])


def _make_extension(connection: Connection, place: str) -> None:
    """Install pgvector where it is not, and find its type from here on."""
    there = connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone()
    if there is None:
        if not connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'").fetchone():
            raise KnowledgeBaseError(f"{place}: the server has no pgvector: install it there first")
        connection.execute("CREATE EXTENSION vector")
    check_extension(connection, place)


def _definition(tables: Tables, dim: int) -> list[str]:
    storage = "PLAIN" if dim <= MAX_PLAIN_DIM else "EXTERNAL"
    return [
        f"CREATE TABLE {tables.state} (one integer PRIMARY KEY CHECK (one = 1), settings text NOT NULL, "
        "kind text NOT NULL, revision bigint NOT NULL, passages bigint NOT NULL, rows bigint NOT NULL, "
        "longest double precision NOT NULL)",
        f"CREATE TABLE {tables.passages} (age bigint PRIMARY KEY, key bytea NOT NULL UNIQUE, id text NOT NULL, "
        "title text NOT NULL, text text NOT NULL, metadata text NOT NULL, fields jsonb NOT NULL, "
        f"digest bytea NOT NULL, checksum bytea NOT NULL, embedding vector({dim}) NOT NULL)",
        f"ALTER TABLE {tables.passages} ALTER COLUMN embedding SET STORAGE {storage}",
        f"CREATE INDEX passages_fields ON {tables.passages} USING gin (fields jsonb_path_ops)",
    ]
