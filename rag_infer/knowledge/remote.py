"""`RemoteKnowledgeBase`: a knowledge base on a server, used like one in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.bundle import Bundle
from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge.arguments import check_ids, check_passages, check_vectors
from rag_infer.knowledge.backends.address import parse_address
from rag_infer.knowledge.backends.opening import check_encoder, create_backend, open_backend
from rag_infer.knowledge.backends.pieces import Pieces
from rag_infer.knowledge.backends.protocol import BackendSettings, IndexWish, OvertakenError, SearchBackend
from rag_infer.knowledge.backup import BackupReport
from rag_infer.knowledge.base import KnowledgeBase
from rag_infer.knowledge.check import CheckReport
from rag_infer.knowledge.chunk import Chunker, forget_stale_chunks
from rag_infer.knowledge.conditions import demand_condition, parse
from rag_infer.knowledge.document import Document
from rag_infer.knowledge.encoders import BundleEncoders, Encoder, Encoders, choose_encoders
from rag_infer.knowledge.index import check_kind, check_min_recall
from rag_infer.knowledge.opened import WRITER_TIMEOUT
from rag_infer.knowledge.passage import Passage
from rag_infer.knowledge.query_vectors import QueryVectors
from rag_infer.knowledge.search import SearchResult, check_k
from rag_infer.knowledge.search_config import MODAL_FUSIONS, SearchConfig
from rag_infer.knowledge.transaction import Upserted
from rag_infer.knowledge.verification import check_way

# So often is an upsert begun that others overtake.
TRIES = 5


class RemoteKnowledgeBase(KnowledgeBase):
    """A knowledge base on a server. `KnowledgeBase.create` and `KnowledgeBase.open` make one of an address.

    It is a `KnowledgeBase`: what takes one takes the other. One object may be used from several threads, and any number
    of processes may read and write.

    Attributes:
        backend: the engine.
        settings: what the knowledge base was made for.
    """

    settings: BackendSettings  # type: ignore[assignment]  # it has no files, and a format of its own

    def __init__(self, backend: SearchBackend, encoders: Encoders | None) -> None:
        # Without super().__init__(), which opens a folder: every method that needs one is one of this class.
        self.backend = backend
        self.settings = backend.settings
        self._encoders = encoders

    @classmethod
    def create(  # type: ignore[override]  # rows_per_segment is about files
        cls,
        address: str | Path,
        *,
        bundle: str | Path | Bundle | None = None,
        encoder: Encoder | None = None,
        index: str = "auto",
        device: str = "cpu",
        threads: int | None = None,
        writer_timeout: float = WRITER_TIMEOUT,
    ) -> RemoteKnowledgeBase:
        """Make an empty knowledge base and open it; arguments as `KnowledgeBase.create`.

        Raises:
            ValueError: neither or both of bundle and encoder; an unknown index; an address that is none.
            KnowledgeBaseError: there is one at the address, or the server cannot be reached or refuses.
        """
        where = parse_address(str(address))
        encoders = choose_encoders(bundle, encoder, device=device, threads=threads)
        if encoders is None:
            raise ValueError("a knowledge base is made for an encoder: give bundle or encoder")
        if encoders.image_dim:
            raise KnowledgeBaseError(
                f"{where.shown}: images are kept in folders only: give a bundle without image encoder"
            )
        settings = BackendSettings.made_now(
            encoder=encoders.fingerprint,
            dim=encoders.dim,
            similarity=encoders.similarity,
            index=check_kind(index),
        )
        return cls(create_backend(where, settings, writer_timeout=writer_timeout), encoders)

    @classmethod
    def open(
        cls,
        address: str | Path,
        *,
        bundle: str | Path | Bundle | None = None,
        encoder: Encoder | None = None,
        device: str = "cpu",
        threads: int | None = None,
        writer_timeout: float = WRITER_TIMEOUT,
        verify: str = "auto",
        background_index: bool = False,  # noqa: ARG003  # see the docstring
    ) -> RemoteKnowledgeBase:
        """Open a knowledge base; arguments as `KnowledgeBase.open`.

        Nothing is verified when it is opened, whatever ``verify`` says: `check` does, and the server has checksums. It
        also keeps its index up to date by itself, with ``background_index`` or without.

        Raises:
            ValueError: an address that is none.
            KnowledgeBaseError: there is none, it is of a newer format, or the server cannot be reached.
            EncoderMismatchError: it was made with another encoder.
        """
        backend = open_backend(parse_address(str(address)), writer_timeout=writer_timeout)
        try:
            check_way(verify)
            encoders = choose_encoders(bundle, encoder, device=device, threads=threads)
            if encoders is not None:
                check_encoder(backend, encoders)
        except BaseException:
            backend.close()
            raise
        return cls(backend, encoders)

    @classmethod
    def repair(  # type: ignore[override]  # it needs no encoder to refuse
        cls, address: str | Path
    ) -> CheckReport:
        """Refused: files of a server are mended by the server.

        Raises:
            KnowledgeBaseError: always; it says what to do.
        """
        raise KnowledgeBaseError(
            f"{parse_address(str(address)).shown}: what a server keeps is mended there: 'rag-infer index compact' "
            "renews the index, damaged passages are upserted again, or the server's backup is restored"
        )

    def upsert(
        self,
        passages: Iterable[Passage],
        vectors: NDArray[np.float32] | None = None,
        *,
        deduplicate: bool = False,
    ) -> Upserted:
        """Add passages, replacing those with the same id; arguments and errors as `KnowledgeBase.upsert`.

        With PostgreSQL all of them become visible at once, and none where it fails; with Qdrant one after the other.

        Raises:
            KnowledgeBaseError: also where duplicates are to be left out, which is for folders only.
        """
        self._check_no_deduplicate(deduplicate)
        if vectors is not None:
            passages = check_passages(passages)
            check_vectors("vectors", vectors, rows=len(passages), dim=self.settings.dim)
        for _ in range(TRIES - 1 if isinstance(passages, Sequence) else 0):  # an iterator would be used up
            with contextlib.suppress(OvertakenError):
                return self._upsert(passages, vectors)
        return self._upsert(passages, vectors)

    def _upsert(self, passages: Iterable[Passage], vectors: NDArray[np.float32] | None) -> Upserted:
        pieces = Pieces(self.backend, passages, vectors, encode=self._encode, stored=self._stored)
        found = pieces.prepared()
        done = Upserted() if found is None else self.backend.upsert(found)
        return done._replace(unchanged=len(pieces.ids) - done.added - done.replaced)

    def foresee(self, passages: Iterable[Passage], *, deduplicate: bool = False) -> list[list[Passage]]:
        """The passages that `upsert` would now encode, those of one call of the encoder in one list."""
        self._check_no_deduplicate(deduplicate)
        unknown = partial(_no_vectors, dim=self.settings.dim)
        pieces = Pieces(self.backend, passages, None, encode=unknown, stored=self._stored).prepared()
        return [list(piece.passages) for piece in pieces or () if piece.passages]

    def update_metadata(self, changes: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Change fields of passages' metadata; arguments, result and errors as `KnowledgeBase.update_metadata`."""
        if not isinstance(changes, Mapping):
            raise TypeError(f"changes must be a mapping of ids, got {type(changes).__name__}")
        for id_ in check_ids(changes):
            Passage(id_, "text", metadata=changes[id_])  # which refuses what cannot be metadata
        return self.backend.update_metadata(changes) if changes else []

    def upsert_documents(self, documents: Iterable[Document], chunker: Chunker) -> Upserted:
        """Cut documents into passages and upsert these, each document by itself; else as in a folder."""
        total = Upserted()
        for document in documents:
            chunks = list(chunker.chunks(document))
            total = total.plus(self.upsert(chunks))
            forget_stale_chunks(self.delete, document.id, count=len(chunks))
        return total

    def delete(self, ids: Iterable[str] = (), *, where: Mapping[str, Any] | None = None) -> list[str]:
        """Delete passages; arguments, result and errors as `KnowledgeBase.delete`."""
        wanted = list(dict.fromkeys(check_ids(ids)))
        return self.backend.delete(wanted, None if where is None else demand_condition(where))

    def get(self, ids: Iterable[str]) -> list[Passage | None]:
        """The passages of ids, in their order; None where there is none."""
        wanted = check_ids(ids)
        found = self.backend.get(list(dict.fromkeys(wanted)))
        return [found.get(i) for i in wanted]

    def __len__(self) -> int:
        return self.backend.count()

    @property
    def place(self) -> str:
        """The address, without anything secret."""
        return self.backend.place

    @property
    def revision(self) -> int:
        """Number of the last commit that changed passages; 0 for an empty knowledge base."""
        return self.backend.revision()

    def search_questions(
        self,
        questions: Sequence[str],
        vectors: NDArray[np.float32] | QueryVectors | None,
        k: int,
        *,
        where: Mapping[str, Any] | None = None,
        search: SearchConfig,
    ) -> tuple[list[SearchResult], int]:
        """(What fits each question best, the revision); arguments as `KnowledgeBase.search_questions`.

        Raises:
            KnowledgeBaseError: a search by words, which only a folder has.
        """
        if search.mode != "dense":
            raise KnowledgeBaseError(
                f"{self.place}: a search of mode {search.mode!r} is for folders only: use dense"
            )
        if search.fusion in MODAL_FUSIONS or search.center:
            raise KnowledgeBaseError(f"{self.place}: texts and images together are for folders only")
        if isinstance(vectors, QueryVectors):
            vectors = vectors.text
        if vectors is None:
            raise ValueError(f"a search of mode {search.mode!r} needs the questions' vectors")
        check_vectors("vectors", vectors, rows=len(questions), dim=self.settings.dim)
        return self.search_revision(vectors, k, where=where)

    def search_revision(
        self, vectors: NDArray[np.float32], k: int, *, where: Mapping[str, Any] | None = None
    ) -> tuple[list[SearchResult], int]:
        """(What `search_vectors` finds, the revision it was found in)."""
        check_k(k)
        check_vectors("vectors", vectors, rows=None, dim=self.settings.dim)
        found = self.backend.search(self._stored(vectors), int(k), parse(where))
        return [SearchResult(hits, found.revision) for hits in found.hits], found.revision

    def build_index(
        self,
        kind: str | None = None,
        *,
        scan: str | None = None,
        min_recall: float | None = None,
        queries: NDArray[np.float32] | Sequence[str] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> bool:
        """Make or drop the server's HNSW index, as the kind asks for; the server keeps it up to date from then on.

        With PostgreSQL it is measured when it is made, else as `KnowledgeBase.build_index`.

        Raises:
            KnowledgeBaseError: what is scanned is to be chosen, or with Qdrant the recall: the server does as it does.
        """
        if scan is not None:
            raise KnowledgeBaseError(f"{self.place}: scan is for folders only: the server has its own")
        wish = IndexWish(
            kind=kind if kind is None else check_kind(kind),
            min_recall=None if min_recall is None else check_min_recall(min_recall),
            queries=None if queries is None else self._held_out(queries),
        )
        return self.backend.build_index(wish, on_progress)

    def compact(self) -> None:
        """Give back the space of replaced and deleted passages, and renew the HNSW index."""
        self.backend.compact()

    def backup(self, folder: str | Path) -> BackupReport:
        """Refused: a server has its own.

        Raises:
            KnowledgeBaseError: always; it says what to do.
        """
        raise KnowledgeBaseError(
            f"{self.place}: no copy of it is made in {folder}: use pg_dump, or Qdrant's snapshots"
        )

    def export_jsonl(self, path: str | Path, *, embeddings: bool = False) -> int:  # noqa: ARG002  # as above
        """Refused, as `backup`."""
        raise self._no_export(path)

    def export_dataset(self, folder: str | Path) -> int:
        """Refused, as `backup`."""
        raise self._no_export(folder)

    def check_bundle(self, bundle: Bundle) -> None:
        """Refuse a bundle whose passage encoder is not the one this was made with.

        Raises:
            EncoderMismatchError: the message names both.
            BundleError: the bundle has no passage encoder.
        """
        check_encoder(self.backend, BundleEncoders(bundle, device="cpu", threads=1))

    def check(self) -> CheckReport:
        """Compare all data with their checksums.

        Raises:
            CorruptIndexError: something differs; the message names the passage.
        """
        return self.backend.check()

    def info(self) -> dict[str, Any]:
        """Sizes, settings and the state of the index, as plain values; no password is among them."""
        return {"path": self.place, **asdict(self.settings), **self.backend.info()}

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Nothing, for a ``with`` block: on a server others may write between two calls, each of which is whole."""
        yield

    def close(self) -> None:
        """Close the connections. Closing again is harmless; anything else then raises `KnowledgeBaseError`."""
        self.backend.close()

    def _check_no_deduplicate(self, deduplicate: bool) -> None:
        if deduplicate:
            raise KnowledgeBaseError(
                f"{self.place}: duplicates are left out in a folder only: leave out deduplicate"
            )

    def _no_export(self, path: str | Path) -> KnowledgeBaseError:
        return KnowledgeBaseError(
            f"{self.place}: only a folder is exported (to {path}): use the server's own export"
        )


def _no_vectors(passages: Sequence[Passage], *, dim: int) -> NDArray[np.float32]:
    return np.zeros((len(passages), dim), dtype=np.float32)
