"""The folder of a knowledge base: made whole or not at all, and recognised as made for an encoder."""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from datetime import UTC, datetime
from pathlib import Path

from rag_infer.errors import EncoderMismatchError, KnowledgeBaseError
from rag_infer.knowledge.encoders import Encoders
from rag_infer.knowledge.hnsw import SNAPSHOTS
from rag_infer.knowledge.image_files import IMAGES
from rag_infer.knowledge.scan import SCANS
from rag_infer.knowledge.schema import Settings
from rag_infer.knowledge.store import RECORD, create_record
from rag_infer.knowledge.vectors import ITEM_BYTES, VECTORS, sync_folder
from rag_infer.version import __version__

LOCK = "lock"
SIMILARITIES = ("dot", "cosine")
SEGMENT_BYTES = 256 * 1024 * 1024


def new_settings(
    encoders: Encoders, *, index: str, scan: str, min_recall: float, rows_per_segment: int | None
) -> Settings:
    """Settings of a knowledge base made now for an encoder.

    Raises:
        TypeError, ValueError: no number of rows in a segment, or no similarity or width of the encoder.
    """
    if isinstance(rows_per_segment, bool) or not isinstance(rows_per_segment, int | None):
        raise TypeError(f"rows_per_segment must be an integer, got {rows_per_segment!r}")
    if rows_per_segment is not None and rows_per_segment < 1:
        raise ValueError(f"rows_per_segment must be at least 1, got {rows_per_segment}")
    if encoders.similarity not in SIMILARITIES:
        raise ValueError(f"the encoder's similarity must be 'dot' or 'cosine', got {encoders.similarity!r}")
    if encoders.dim < 1:
        raise ValueError(f"the encoder's vectors must have a width of 1 or more, got {encoders.dim}")
    return Settings(
        created_by=f"rag_infer {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        encoder=encoders.fingerprint,
        dim=int(encoders.dim),
        image_dim=int(encoders.image_dim),
        shared_space=encoders.shared_space,
        part_similarity=encoders.part_similarity if encoders.image_dim else "",
        similarity=encoders.similarity,
        index=index,
        scan=scan,
        min_recall=min_recall,
        rows_per_segment=rows_per_segment or max(1, SEGMENT_BYTES // (ITEM_BYTES * encoders.dim)),
    )


def create_folder(folder: Path, settings: Settings) -> None:
    """Write an empty knowledge base into a temporary folder and rename it.

    Raises:
        KnowledgeBaseError: there is something already, or the folder cannot be made.
    """
    taken = KnowledgeBaseError(f"{folder} exists and is not an empty folder: open it, or choose another")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise taken
    folder = folder.absolute()  # "." has no name
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        (temporary / VECTORS).mkdir(parents=True)
        (temporary / SNAPSHOTS).mkdir()
        (temporary / SCANS).mkdir()
        create_record(temporary, settings)
        sync_folder(temporary)
        temporary.rename(folder)
        sync_folder(folder.absolute().parent)
    except OSError as error:
        if folder.is_dir() and (folder / RECORD).exists():
            raise taken from error  # another process was quicker
        raise KnowledgeBaseError(f"{folder} cannot be made: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_encoder(folder: Path, settings: Settings, encoders: Encoders) -> None:
    """Refuse an encoder other than the one a knowledge base was made with.

    Raises:
        EncoderMismatchError: the message names both.
    """
    if encoders.fingerprint != settings.encoder:
        raise EncoderMismatchError(
            f"{folder} was made with the encoder {settings.encoder}, the one given is {encoders.fingerprint}: "
            "use the bundle it was made with, or build it anew"
        )
    if (encoders.dim, encoders.similarity) != (settings.dim, settings.similarity):
        raise EncoderMismatchError(
            f"{folder} was made for {settings.similarity} over {settings.dim} dimensions, "
            f"the encoder given is for {encoders.similarity} over {encoders.dim}"
        )
    if encoders.image_dim != settings.image_dim:
        raise EncoderMismatchError(
            f"{folder} was made for images of {settings.image_dim} dimensions, the encoder given is for "
            f"{encoders.image_dim}"
        )


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of the record, the vectors, the HNSW index, the codes and the images."""
    found = {}
    for name in (RECORD, VECTORS, SNAPSHOTS, SCANS, IMAGES):
        # os.walk passes over folders that vanish; Path.rglob does not.
        there = [Path(at, file) for at, _, files in os.walk(folder / name) for file in files]
        found[name] = sum(map(_size, [*folder.glob(f"{name}*")] if name == RECORD else there))
    return found


def _size(path: Path) -> int:
    try:
        found = path.stat()
    except FileNotFoundError:  # removed since it was listed: others write meanwhile
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def exists(folder: Path) -> bool:
    """Whether there is a knowledge base in a folder."""
    return (folder / RECORD).is_file()
