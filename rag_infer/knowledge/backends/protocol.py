"""What a knowledge base asks of an engine on a server: a small protocol, and the plain values that pass through it.

An engine knows vectors, passages and conditions; it knows no encoder and no bundle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge.check import CheckReport
from rag_infer.knowledge.conditions import Condition
from rag_infer.knowledge.passage import Passage, ScoredPassage
from rag_infer.knowledge.transaction import Upserted
from rag_infer.version import __version__

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class IndexWish:
    """What an index should be.

    Attributes:
        kind: "auto", "exact" or "hnsw"; None for what it was told before.
        min_recall: an index that finds less is not used; None for what it was told before.
        queries: float32 ``[queries, dim]``, as they would be stored, to measure with; None for stored vectors.
    """

    kind: str | None = None
    min_recall: float | None = None
    queries: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class BackendSettings:
    """What a knowledge base on a server is made for; fixed but for ``index``.

    Attributes:
        format_version: of what is stored; this version reads up to `FORMAT_VERSION`.
        created_by, created: the program and the time (UTC).
        encoder: fingerprint of the passage encoder.
        dim, similarity: of its vectors.
        index: "auto", "exact" or "hnsw".
    """

    # Texts alone.
    image_dim: ClassVar[int] = 0
    part_similarity: ClassVar[str] = ""

    format_version: int = FORMAT_VERSION
    created_by: str
    created: str
    encoder: str
    dim: int
    similarity: str
    index: str

    @classmethod
    def made_now(cls, *, encoder: str, dim: int, similarity: str, index: str) -> BackendSettings:
        """Settings of a knowledge base that is being made."""
        return cls(
            created_by=f"rag_infer {__version__}",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            encoder=encoder,
            dim=dim,
            similarity=similarity,
            index=index,
        )

    def to_json(self) -> str:
        """As text, for the engine to keep."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, place: str) -> BackendSettings:
        """What `to_json` wrote.

        Raises:
            KnowledgeBaseError: a newer format.
            CorruptIndexError: other settings than expected.
        """
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise CorruptIndexError(f"{place} has settings that cannot be read")
        version = values.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise KnowledgeBaseError(
                f"{place} has format_version {version}, this rag_infer reads up to {FORMAT_VERSION}: upgrade it"
            )
        expected = {f.name for f in fields(cls)}
        if values.keys() != expected:
            differing = ", ".join(sorted(values.keys() ^ expected))
            raise CorruptIndexError(f"{place} lacks settings or has unknown ones: {differing}")
        return cls(**values)


class Piece(NamedTuple):
    """Passages that are written together.

    Attributes:
        passages: with ids that differ.
        digests: of their contents (see `contents_digest`).
        vectors: float32 ``[passages, dim]``, as they are to be stored.
        kept: digests by id of passages left out, for they were there as they are to be.
    """

    passages: Sequence[Passage]
    digests: Sequence[bytes]
    vectors: NDArray[np.float32]
    kept: Mapping[str, bytes]


class OvertakenError(KnowledgeBaseError):
    """Another writer has changed what an upsert had found as it is to be. Nothing was written: upsert again."""


class Found(NamedTuple):
    """What a search found.

    Attributes:
        hits: per query the ids with their scores, and the passages they are of, best first.
        revision: the revision that was searched.
    """

    hits: list[list[ScoredPassage]]
    revision: int


class SearchBackend(Protocol):
    """A knowledge base's passages and vectors on an engine. Safe to share between threads.

    Every method raises `KnowledgeBaseError` where the server cannot be reached, refuses, or takes too long.

    Attributes:
        place: the address, without anything secret.
        settings: what the knowledge base was made for.
    """

    place: str
    settings: BackendSettings

    def search(self, vectors: NDArray[np.float32], k: int, condition: Condition | None) -> Found:
        """The k passages that fulfil a condition with the largest inner products, per vector.

        Scores are those of the kernel on the stored float32 vectors; equal ones by age, the older first.

        Args:
            vectors: float32 ``[queries, dim]``, as they would be stored.
            k: at least 1; fewer are returned where there are no more.
            condition: None for all.
        """
        ...

    def digests(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Content digest of those ids that are there."""
        ...

    def upsert(self, pieces: Iterable[Piece]) -> Upserted:
        """Write passages, replacing those with the same id; those with the same digest are left alone.

        An id may be in several pieces: the last one counts. A sequence of pieces can be sent again where a connection
        is lost; an iterator cannot.
        """
        ...

    def update_metadata(self, changes: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Set fields of passages' metadata; returns those of the ids that were there."""
        ...

    def delete(self, ids: Sequence[str], condition: Condition | None = None) -> list[str]:
        """Delete the passages of ids, and those that fulfil a condition.

        Args:
            ids: that differ.
            condition: None for none.

        Returns:
            The ids that were there: those given, in their order, then the others by age.
        """
        ...

    def get(self, ids: Sequence[str]) -> dict[str, Passage]:
        """The passages of those ids that are there."""
        ...

    def count(self) -> int:
        """How many passages there are."""
        ...

    def revision(self) -> int:
        """Number of the last change; 0 for an empty knowledge base."""
        ...

    def build_index(self, wish: IndexWish, on_progress: Callable[[int], None] | None) -> bool:
        """Make, measure or drop the HNSW index as is wished; returns whether anything was done.

        Args:
            wish: what kind of index, how good, and measured how.
            on_progress: called with numbers of passages indexed.

        Raises:
            KnowledgeBaseError: also where the engine measures nothing, and is asked to.
        """
        ...

    def compact(self) -> None:
        """Give back the space of replaced and deleted passages, and renew the index."""
        ...

    def check(self) -> CheckReport:
        """Compare everything with its checksum.

        Raises:
            CorruptIndexError: something differs.
        """
        ...

    def info(self) -> dict[str, Any]:
        """Sizes, settings and the state of the index, as plain values."""
        ...

    def close(self) -> None:
        """Close the connections. Closing again is harmless."""
        ...
