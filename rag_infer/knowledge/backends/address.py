"""Addresses of knowledge bases that lie on a server, told from folders, and shown without what is secret.

- ``postgresql://user@host:5432/database?knowledge_base=docs&ef_search=200&timeout=60``: libpq's own form with three
  options of ours. ``knowledge_base`` names the PostgreSQL schema (default ``rag_infer``), ``ef_search`` how far an HNSW
  index looks (default 100), ``timeout`` the seconds a search may take (default 30). ``postgres://`` is the same.
- ``qdrant://host:6333/collection`` and ``qdrant+https://host/collection``, with the same two options. An API key is
  taken from the environment variable ``QDRANT_API_KEY``, or stands before the host (``qdrant+https://:KEY@host/docs``).
- ``qdrant+file:///folder/collection``: qdrant-client's local mode, for tests and small things; one process at a time.
  It keeps its points as pickles: open only a folder that you trust.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, unquote_plus, urlsplit

from rag_infer.knowledge.passage import check_text

POSTGRESQL, QDRANT, QDRANT_TLS, QDRANT_FILE = "postgresql", "qdrant", "qdrant+https", "qdrant+file"
SCHEMES = {
    "postgresql": POSTGRESQL,
    "postgres": POSTGRESQL,
    "qdrant": QDRANT,
    "qdrant+https": QDRANT_TLS,
    "qdrant+file": QDRANT_FILE,
}
OWN_OPTIONS = ("knowledge_base", "ef_search", "timeout")
DEFAULT_NAME = "rag_infer"
DEFAULT_EF_SEARCH = 100
DEFAULT_TIMEOUT = 30.0
QDRANT_PORT = 6333

# libpq's options that tell where a database is and nothing that is secret.
_SHOWN = ("host", "hostaddr", "port", "dbname", "user", "sslmode")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_COLLAPSED = re.compile(r"(postgresql|postgres|qdrant(\+\w+)?):/")
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,49}")
# It becomes part of a path, of a URL's or of a folder's.
_COLLECTION = re.compile(r"[\w-][\w.-]{0,199}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*)(:[0-9]*)?")


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a knowledge base is.

    Attributes:
        kind: "postgresql", "qdrant", "qdrant+https" or "qdrant+file".
        target: what the driver is given: a libpq URI, "host:port", or a folder. May hold a password.
        name: the PostgreSQL schema, or the Qdrant collection.
        ef_search: how many candidates an HNSW index looks at.
        timeout: seconds that a search may take.
        secret: Qdrant's API key, or None.
        shown: the address as it may be printed.
    """

    kind: str
    target: str = field(repr=False)
    name: str
    ef_search: int = DEFAULT_EF_SEARCH
    timeout: float = DEFAULT_TIMEOUT
    secret: str | None = field(default=None, repr=False)
    shown: str


def is_address(place: str | Path) -> bool:
    """Whether a knowledge base is on a server rather than in a folder.

    Raises:
        TypeError: an address that was made a `Path`, which loses one of its slashes.

    >>> is_address("postgresql://localhost/articles"), is_address("kb/")
    (True, False)
    """
    if isinstance(place, Path):
        if _COLLAPSED.match(place.as_posix()):
            raise TypeError(
                "an address of a knowledge base must be a string: a Path loses one of its slashes"
            )
        return False
    return isinstance(place, str) and _SCHEME.match(place) is not None


def knowledge_base_place(text: str) -> str | Path:
    """What was named on the command line: an address as it is, anything else as a folder."""
    return text if is_address(text) else Path(text)


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        ValueError: an unknown scheme or option, no collection, a name that cannot be one. Never with a password in it.

    >>> parse_address("postgresql://reader:secret@db.example/articles?knowledge_base=docs").shown
    'postgresql://reader@db.example/articles?knowledge_base=docs'
    """
    found = _SCHEME.match(text)
    kind = SCHEMES.get(found[1].lower()) if found else None
    if found is None or kind is None:
        named = found[1] if found else text.partition(":")[0]
        raise ValueError(
            f"an address beginning with {named!r} is not known: expected a folder, or one of "
            f"{', '.join(f'{scheme}://' for scheme in SCHEMES)}"
        )
    check_text("an address", text)
    rest, _, query = text[found.end() :].partition("?")
    if "@" in query:
        # The host then ends in the midst of the password, which nothing printed could be kept clear of.
        raise ValueError(
            "the address has an '@' after a '?': write '@' as %40 there, a password's '?' as %3F"
        )
    own, others = _options(query)
    common = {
        "kind": kind,
        "ef_search": _number(own, "ef_search", DEFAULT_EF_SEARCH, 1, 1000),
        "timeout": float(_number(own, "timeout", int(DEFAULT_TIMEOUT), 1, 86_400)),
    }
    if kind == POSTGRESQL:
        return _postgresql(rest, others, own, common)
    if "knowledge_base" in own or others:
        unknown = ", ".join([*(["knowledge_base"] if "knowledge_base" in own else []), *dict(others)])
        raise ValueError(f"a Qdrant address has no option {unknown}: expected ef_search, timeout")
    return _qdrant(text, kind, rest, common)


def _options(query: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """(Our own options, the others as they stand)."""
    own: dict[str, str] = {}
    others = []
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if name in OWN_OPTIONS:
            own[name] = unquote_plus(value)
        else:
            others.append((name, value))
    return own, others


def _number(options: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    value = options.get(name)
    if value is None:
        return default
    if not value.isascii() or not value.isdigit() or not least <= int(value) <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most:,}, got {value!r}")
    return int(value)


def _postgresql(
    rest: str, others: list[tuple[str, str]], own: dict[str, str], common: dict[str, object]
) -> Address:
    name = own.get("knowledge_base", DEFAULT_NAME)
    if not _NAME.fullmatch(name) or name.startswith("pg_") or name == "information_schema":
        raise ValueError(
            f"knowledge_base must be small letters, digits and _ (at most 50, none of PostgreSQL's own), got {name!r}"
        )
    authority, slash, database = rest.partition("/")
    if "@" in database:
        # The authority then ends in the midst of the password, which nothing printed could be kept clear of.
        raise ValueError(
            "the password in the address has a '/': write it as %2F (or use PGPASSWORD, ~/.pgpass)"
        )
    user, at, host = authority.rpartition("@")
    if not all(_HOST.fullmatch(one) for one in host.split(",")):
        raise ValueError(
            "the host and port of the address cannot be read: HOST:PORT is expected "
            "(a password's '@', ':', '/', '?' and '#' are written as %40, %3A, %2F, %3F and %23)"
        )
    user = user.partition(":")[0]
    shown = [f"{n}={unquote(v)}" for n, v in others if n in _SHOWN] + [f"knowledge_base={name}"]
    query = "&".join(f"{n}={v}" for n, v in others)
    return Address(
        target=f"postgresql://{rest}" + (f"?{query}" if query else ""),
        name=name,
        shown=f"postgresql://{user}{at if user else ''}{host}{slash}{database}?{'&'.join(shown)}",
        **common,  # type: ignore[arg-type]  # made above
    )


def _qdrant(text: str, kind: str, rest: str, common: dict[str, object]) -> Address:
    if "@" in rest.partition("/")[2] and kind != QDRANT_FILE:
        raise ValueError("the key in the address has a '/': write it as %2F (or use QDRANT_API_KEY)")
    path = "/" + unquote(rest.partition("/")[2].strip("/"))
    folder, _, name = path.rpartition("/")
    if not name or (folder and kind != QDRANT_FILE) or (not folder and kind == QDRANT_FILE):
        raise ValueError(
            f"a Qdrant address ends with a collection: {kind}://"
            + ("/FOLDER/COLLECTION" if kind == QDRANT_FILE else "HOST:PORT/COLLECTION")
        )
    if not _COLLECTION.fullmatch(name):
        raise ValueError(
            f"a Qdrant collection has letters, digits, _, - and . (not first; at most 200), got {name!r}"
        )
    if kind == QDRANT_FILE:
        return Address(target=folder, name=name, shown=f"{kind}://{path}", **common)  # type: ignore[arg-type]
    try:
        parts = urlsplit(text)
        port = parts.port or QDRANT_PORT
    except ValueError:
        raise ValueError(
            "the host and port of the Qdrant address cannot be read: HOST:PORT is expected"
        ) from None
    if not parts.hostname:
        raise ValueError(f"a Qdrant address names a host: {kind}://HOST:PORT/COLLECTION")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(
        target=f"{host}:{port}",
        name=name,
        secret=unquote(parts.password) if parts.password else os.environ.get("QDRANT_API_KEY"),
        shown=f"{kind}://{host}:{port}/{name}",
        **common,  # type: ignore[arg-type]
    )
