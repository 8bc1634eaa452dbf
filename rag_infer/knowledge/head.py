"""The number of the last committed revision, beside the record.

SQLite drops what it finds damaged in its write-ahead log, and with it what was committed there, without a word. A
record that is behind this number has lost commits.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path

from rag_infer.errors import CorruptIndexError

HEAD = "head"


def write_head(folder: Path, revision: int) -> None:
    """Note a revision that was just committed. It is a precaution: a full disk does not undo the commit."""
    number = f"{revision:020d}"
    line = f"{number} {zlib.crc32(number.encode()):08x}\n".encode()
    with contextlib.suppress(OSError):
        descriptor = os.open(folder / HEAD, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.pwrite(descriptor, line, 0)
        finally:
            os.close(descriptor)


def read_head(folder: Path) -> int:
    """The last revision that was noted; 0 where there is no note, or one that is damaged itself."""
    try:
        number, checksum = (folder / HEAD).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 0
    return int(number) if number.isdigit() and f"{zlib.crc32(number.encode()):08x}" == checksum else 0


def check_head(folder: Path, noted: int, revision: int) -> None:
    """Refuse a record that has lost what was committed.

    Args:
        folder: the knowledge base.
        noted: `read_head` before the record was read.
        revision: that of the record.

    Raises:
        CorruptIndexError: the record is behind.
    """
    if revision < noted:
        raise CorruptIndexError(
            f"{folder} is at revision {revision}, but revision {noted} was committed: the record or its "
            "write-ahead log (record.sqlite-wal) is damaged or was left out of a copy; take it from a backup"
        )
