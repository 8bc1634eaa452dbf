"""One connection to PostgreSQL: how it is made, how long it waits for an answer, and psycopg's errors made ours."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg import errors

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge.backends.address import Address

T = TypeVar("T")

# libpq's: what an address says otherwise counts. Without them a server whose machine is gone is waited for for hours.
DEFAULTS = {
    "connect_timeout": 10,
    "application_name": "rag_infer",
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
# So much longer than the time that the server itself allows is an answer waited for.
GRACE = 5.0

# Only where pgvector's type and operators are: our tables are always named with their schema.
_PREPARE = """
SELECT set_config('search_path', coalesce((SELECT quote_ident(nspname) FROM pg_extension
    JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'vector'), 'public'), false),
    set_config('statement_timeout', %s, false), current_setting('server_encoding')
"""


class LostConnectionError(KnowledgeBaseError):
    """The server cannot be reached, or the connection was cut. Nothing of the transaction was committed."""


class SilentServerError(psycopg.OperationalError):
    """The server holds the connection and says nothing, for longer than it was told to take."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that does not wait for ever.

    Attributes:
        patience: seconds for an answer of the server; None to wait as long as there is a connection.
    """

    patience: float | None = None

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **options: Any) -> T:
        """As psycopg's, for ``patience`` seconds. The connection is closed where they are over."""
        if self.patience is None:
            return super().wait(gen, *args, **options)
        try:
            return super().wait(_within(gen, self.patience), *args, **options)
        except SilentServerError:
            self.close()
            raise


def _within(steps: Generator[Any, Any, T], seconds: float) -> Generator[Any, Any, T]:
    """The same steps, which psycopg takes at least every tenth of a second, as long as the time lasts."""
    end = time.monotonic() + seconds
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > end:
                raise SilentServerError(f"the server has not answered for {seconds:g} s")
            wanted = steps.send(ready)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]  # a generator's


def connect(address: Address) -> Connection:
    """A connection that begins and ends transactions only when told.

    Raises:
        LostConnectionError: the server cannot be reached.
        KnowledgeBaseError: it refuses, or its database is not in UTF-8.
    """
    try:
        given = psycopg.conninfo.conninfo_to_dict(address.target)
        connection = Connection.connect(
            **{**DEFAULTS, **given, "client_encoding": "UTF8"},  # type: ignore[arg-type]  # libpq's own options
            autocommit=True,
            # Plans made for other values would not know which conditions are selective.
            prepare_threshold=None,
        )
        connection.patience = address.timeout + GRACE
        try:
            found = connection.execute(_PREPARE, [str(int(address.timeout * 1000))]).fetchone()
        except BaseException:
            connection.close()
            raise
    except psycopg.Error as error:
        # Without the cause: libpq's message about an address it cannot read has all of it, password included.
        raise typed(error, address, connecting=True) from None
    if found is None or found[2] != "UTF8":
        connection.close()
        raise KnowledgeBaseError(
            f"{address.shown}: the database must be in UTF-8, it is in {found[2] if found else '?'}"
        )
    return connection


UNSAFE = (psycopg.ProgrammingError,)
# The last one is a standby's: what was read there has just been removed, and can be read again.
_LOST = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleSessionTimeout,
    errors.SerializationFailure,
)


def typed(error: psycopg.Error, address: Address, *, connecting: bool = False) -> KnowledgeBaseError:
    """The error to be raised for one of psycopg's."""
    place, reason = address.shown, reason_of(error)
    if connecting and isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        return KnowledgeBaseError(
            f"{place}: the address cannot be read; see 'Connection URIs' in PostgreSQL's manual"
        )
    match error:
        case SilentServerError():
            return KnowledgeBaseError(f"{place}: {reason}: it stands still, or the network does")
        case errors.QueryCanceled():
            return KnowledgeBaseError(
                f"{place}: took longer than {address.timeout:g} s: add timeout=SECONDS to the address, or an index"
            )
        case errors.LockNotAvailable() | errors.DeadlockDetected():
            return KnowledgeBaseError(f"{place}: another writer is at work: {reason}")
        case errors.UndefinedTable() | errors.InvalidSchemaName() | errors.UndefinedColumn():
            return KnowledgeBaseError(f"no whole knowledge base at {place}: {reason}")
        case errors.DataCorrupted() | errors.IndexCorrupted():
            return CorruptIndexError(f"{place} is damaged: {reason}")
        case psycopg.OperationalError() | psycopg.InterfaceError():
            # Without a code of the server's it is libpq that speaks: there is no connection (any more).
            if error.sqlstate is None or isinstance(error, _LOST) or error.sqlstate.startswith("08"):
                return LostConnectionError(f"{place}: {reason}")
    return KnowledgeBaseError(f"{place}: {reason}")


def reason_of(error: psycopg.Error) -> str:
    """The first line of a message; a server's own has no address in it, libpq's has host and user."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
