"""`KnowledgeBase`: passages that can be written, read and searched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from rag_infer.bundle import Bundle
from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge import maintenance
from rag_infer.knowledge.arguments import check_ids, check_passages, check_vectors
from rag_infer.knowledge.encoders import BundleEncoders, Encoder, Encoders, choose_encoders
from rag_infer.knowledge.folder import LOCK, check_encoder, create_folder, new_settings, sizes
from rag_infer.knowledge.index import Index, check_kind
from rag_infer.knowledge.lock import WriterLock
from rag_infer.knowledge.maintenance import CheckReport
from rag_infer.knowledge.passage import Passage, ScoredPassage, content_digest, passage_text
from rag_infer.knowledge.schema import Settings, read_settings, read_state, write_index_kind
from rag_infer.knowledge.search import check_k, normalised, search
from rag_infer.knowledge.store import Record, passages_by_id, rows_and_digests
from rag_infer.knowledge.vectors import VECTORS, Segments
from rag_infer.knowledge.view import Views
from rag_infer.knowledge.writer import Upserted, Writer
from rag_infer.session import check_threads
from rag_infer.text import check_question

WRITER_TIMEOUT = 10.0


class KnowledgeBase:
    """A folder of passages and their vectors. Make one with `create`, then `open` it.

    One object may be used from several threads. Any number of processes may read while one writes; a search sees
    one revision, whole. What `upsert` and `delete` have returned from survives a crash.

    >>> import numpy as np, tempfile
    >>> class Letters:  # an encoder: anything with these four attributes and `encode`
    ...     dim, similarity, fingerprint, max_length = 26, "dot", "letters", 100
    ...     def encode(self, texts):
    ...         return np.array([[t.count(chr(97 + i)) for i in range(26)] for t in texts], dtype=np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with KnowledgeBase.create(folder + "/kb", encoder=Letters()) as kb:
    ...         kb.upsert([Passage("p1", "banana"), Passage("p2", "cherry", metadata={"red": True})])
    ...         [(p.id, p.score) for p in kb.search("a", k=2)], [p.id for p in kb.search("a", where={"red": True})]
    Upserted(added=2, replaced=0, unchanged=0)
    ([('p1', 3.0), ('p2', 0.0)], ['p2'])
    """

    def __init__(
        self,
        folder: Path,
        encoders: Encoders | None,
        *,
        threads: int | None = None,
        writer_timeout: float = WRITER_TIMEOUT,
    ) -> None:
        self._threads = check_threads(threads)
        lock = WriterLock(folder / LOCK, timeout=writer_timeout)
        self.folder = folder
        self._record = Record(folder)
        self.settings: Settings = self._record.settings
        self._encoders = encoders
        dim, rows = self.settings.dim, self.settings.rows_per_segment
        segments = Segments(folder / VECTORS, dim=dim, rows_per_segment=rows)
        self._writer = Writer(folder, self._record, segments, lock)
        self._views = Views(segments)
        self._index = Index(self._writer, self._views, dim=dim, threads=self._threads)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        bundle: str | Path | Bundle | None = None,
        encoder: Encoder | None = None,
        index: str = "auto",
        device: str = "cpu",
        threads: int | None = None,
        writer_timeout: float = WRITER_TIMEOUT,
        rows_per_segment: int | None = None,
    ) -> KnowledgeBase:
        """Make an empty knowledge base and open it.

        Args:
            folder: must not exist, or be empty.
            bundle: whose encoders it is for.
            encoder: an encoder instead, for passages and questions.
            index: "exact", "hnsw", or "auto": exact up to 100,000 passages, HNSW above.
            device, threads: for the encoders; threads also for search, default all processors.
            writer_timeout: seconds to wait for another writer.
            rows_per_segment: vectors in one file, default 256 MiB of them.

        Raises:
            ValueError: neither or both of bundle and encoder; an unknown index.
            KnowledgeBaseError: there is something in the folder.
            BundleError: the bundle is not whole, or has no passage encoder.
        """
        folder = Path(folder)
        encoders = choose_encoders(bundle, encoder, device=device, threads=threads)
        if encoders is None:
            raise ValueError("a knowledge base is made for an encoder: give bundle or encoder")
        settings = new_settings(encoders, index=check_kind(index), rows_per_segment=rows_per_segment)
        create_folder(folder, settings)
        return cls(folder, encoders, threads=threads, writer_timeout=writer_timeout)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        bundle: str | Path | Bundle | None = None,
        encoder: Encoder | None = None,
        device: str = "cpu",
        threads: int | None = None,
        writer_timeout: float = WRITER_TIMEOUT,
    ) -> KnowledgeBase:
        """Open a knowledge base. Without bundle and encoder, texts cannot be encoded; all else works.

        Raises:
            KnowledgeBaseError: there is none, or it is of a newer format.
            EncoderMismatchError: it was made with another encoder.
            CorruptIndexError: the record is damaged, or a vector file is missing or too short.
            BundleError: the bundle is not whole, or has no passage encoder.
        """
        folder = Path(folder)
        knowledge_base = cls(folder, None, threads=threads, writer_timeout=writer_timeout)
        try:
            encoders = choose_encoders(bundle, encoder, device=device, threads=threads)
            if encoders is not None:
                check_encoder(folder, knowledge_base.settings, encoders)
            knowledge_base._encoders = encoders
            with knowledge_base._record.reading() as connection:
                knowledge_base._views.at(connection)
        except BaseException:
            knowledge_base.close()
            raise
        return knowledge_base

    @classmethod
    def repair(
        cls,
        folder: str | Path,
        *,
        bundle: str | Path | Bundle | None = None,
        encoder: Encoder | None = None,
        device: str = "cpu",
        threads: int | None = None,
        writer_timeout: float = WRITER_TIMEOUT,
    ) -> CheckReport:
        """Encode damaged or missing vectors again, make the index anew where it is damaged, and check.

        Raises:
            CorruptIndexError: something else is damaged, or vectors that were given and not encoded.
            EncoderMismatchError, KnowledgeBaseError, BundleError: as `open`.
        """
        folder = Path(folder)
        encoders = choose_encoders(bundle, encoder, device=device, threads=threads)
        if encoders is None:
            raise ValueError("repairing encodes passages again: give bundle or encoder")
        with cls(folder, encoders, threads=threads, writer_timeout=writer_timeout) as knowledge_base:
            check_encoder(folder, knowledge_base.settings, encoders)
            repaired = maintenance.repair(knowledge_base._writer, encoders)
            knowledge_base._index.repair()
            return replace(knowledge_base.check(), repaired=repaired)

    def upsert(self, passages: Iterable[Passage], vectors: NDArray[np.float32] | None = None) -> Upserted:
        """Add passages, replacing those with the same id. All of them become visible at once.

        A passage that is there with the same contents costs no work. Of several with the same id the last counts.

        Args:
            passages: any number; they are encoded and committed together.
            vectors: float32 ``[passages, dim]``, where they are known already.

        Raises:
            TypeError, ValueError: something else than passages; vectors of another dtype or shape, or not finite.
            KnowledgeBaseError: opened without encoder, another writer, or a full disk. What was committed is kept.
        """
        passages = check_passages(passages)
        if vectors is not None:
            check_vectors("vectors", vectors, rows=len(passages), dim=self.settings.dim)
        last = {p.id: i for i, p in enumerate(passages)}
        kept = [i for i, p in enumerate(passages) if last[p.id] == i]
        digests = {
            i: content_digest(passages[i], b"" if vectors is None else vectors[i].tobytes()) for i in kept
        }
        with self._record.reading() as connection:
            known = rows_and_digests(connection, [passages[i].id for i in kept])
        new = [i for i in kept if passages[i].id not in known or known[passages[i].id][1] != digests[i]]
        if not new:
            return Upserted(unchanged=len(kept))
        chosen = [passages[i] for i in new]
        stored = self._encode(chosen) if vectors is None else self._stored(vectors[new])
        done = self._writer.put(chosen, [digests[i] for i in new], stored, encoded=vectors is None)
        return done._replace(unchanged=done.unchanged + len(kept) - len(new))

    def delete(self, ids: Iterable[str]) -> list[str]:
        """Delete passages; returns those of the ids that were there. Unknown ids are no error."""
        return self._writer.remove(list(dict.fromkeys(check_ids(ids))))

    def get(self, ids: Iterable[str]) -> list[Passage | None]:
        """The passages of ids, in their order; None where there is none."""
        wanted = check_ids(ids)
        with self._record.reading() as connection:
            found = passages_by_id(connection, list(dict.fromkeys(wanted)))
        return [found.get(i) for i in wanted]

    def __len__(self) -> int:
        with self._record.reading() as connection:
            return read_state(connection).passages

    @property
    def revision(self) -> int:
        """Number of the last commit that changed passages; 0 for an empty knowledge base."""
        with self._record.reading() as connection:
            return read_state(connection).revision

    @overload
    def search(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too: the first one counts
        self, question: str, k: int = 5, *, where: Mapping[str, Any] | None = None
    ) -> list[ScoredPassage]: ...

    @overload
    def search(
        self, question: Sequence[str], k: int = 5, *, where: Mapping[str, Any] | None = None
    ) -> list[list[ScoredPassage]]: ...

    def search(
        self, question: str | Sequence[str], k: int = 5, *, where: Mapping[str, Any] | None = None
    ) -> list[ScoredPassage] | list[list[ScoredPassage]]:
        """The passages nearest to a question, or to each of several, best first.

        Args:
            question: a question, or a sequence of them.
            k: how many; fewer are returned where there are no more.
            where: metadata fields and the values they must equal.

        Raises:
            ValueError: k below 1, an empty question, a condition that JSON cannot hold.
            KnowledgeBaseError: opened without an encoder.
        """
        check_k(k)
        questions = [question] if isinstance(question, str) else list(question)
        vectors = self._need_encoders().questions([check_question(q) for q in questions])
        found = self.search_vectors(vectors, k, where=where)
        return found[0] if isinstance(question, str) else found

    def search_vectors(
        self, vectors: NDArray[np.float32], k: int, *, where: Mapping[str, Any] | None = None
    ) -> list[list[ScoredPassage]]:
        """The passages nearest to each vector, best first; equal scores by age, the older first.

        Args:
            vectors: float32 ``[queries, dim]``.
            k: how many; fewer are returned where there are no more.
            where: metadata fields and the values they must equal.

        Raises:
            TypeError, ValueError: vectors of another dtype or shape, or not finite; k below 1.
        """
        return self.search_revision(vectors, k, where=where)[0]

    def search_revision(
        self, vectors: NDArray[np.float32], k: int, *, where: Mapping[str, Any] | None = None
    ) -> tuple[list[list[ScoredPassage]], int]:
        """(What `search_vectors` finds, the revision it was found in)."""
        check_k(k)
        check_vectors("vectors", vectors, rows=None, dim=self.settings.dim)
        queries = self._stored(vectors)
        return search(self._record, self._views, self._index, queries, k, where, threads=self._threads)

    def build_index(
        self, kind: str | None = None, *, on_progress: Callable[[int], None] | None = None
    ) -> bool:
        """Make, renew or drop the HNSW index as needed; `upsert` leaves it behind, and search exact for new rows.

        Args:
            kind: "auto", "exact" or "hnsw"; None for what the knowledge base was made with.
            on_progress: called with numbers of vectors indexed.

        Returns:
            Whether anything was done.
        """
        with self._writer.session():
            if kind is not None:
                with self._record.writing() as connection:
                    write_index_kind(connection, check_kind(kind))
            return self._index.refresh(self._index_kind(), on_progress=on_progress)

    def compact(self) -> None:
        """Give back the space of replaced and deleted passages, and renew the HNSW index.

        Raises:
            CorruptIndexError: something is damaged (see `check`). Nothing is changed.
            KnowledgeBaseError: another writer, or a full disk. Nothing is changed.
        """
        with self._writer.session():
            with self._record.reading() as connection:
                vectors = self._views.at(connection).vectors
            maintenance.compact(self._writer, vectors, dim=self.settings.dim)
            self._index.refresh(self._index_kind())

    def check_bundle(self, bundle: Bundle) -> None:
        """Refuse a bundle whose passage encoder is not the one this was made with.

        Raises:
            EncoderMismatchError: the message names both.
            BundleError: the bundle has no passage encoder.
        """
        check_encoder(self.folder, self.settings, BundleEncoders(bundle, device="cpu", threads=1))

    def check(self) -> CheckReport:
        """Compare all data with their checksums and with the record.

        Raises:
            CorruptIndexError: something differs; the message names the file and the rows.
        """
        return maintenance.check(self._writer, dim=self.settings.dim)

    def info(self) -> dict[str, Any]:
        """Sizes, settings and the state of the index, as plain values."""
        with self._record.reading() as connection:
            state = read_state(connection)
        manifest = self._index.manifest(state)
        return {
            "path": str(self.folder),
            "passages": state.passages,
            "dead_rows": state.rows - state.passages,
            "revision": state.revision,
            **asdict(self.settings),
            "index": self._index_kind(),
            "search": "hnsw" if state.snapshot else "exact",
            "recall": manifest.get("recall"),
            "indexed_rows": manifest.get("elements", 0),
            "bytes": sizes(self.folder),
        }

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other writers out for a ``with`` block; each upsert in it is still committed by itself."""
        with self._writer.session():
            yield

    def close(self) -> None:
        """Close the files. Closing again is harmless; anything else then raises `KnowledgeBaseError`."""
        self._record.close()

    def __enter__(self) -> KnowledgeBase:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _index_kind(self) -> str:
        with self._record.reading() as connection:
            return read_settings(connection, self._record.path).index

    def _need_encoders(self) -> Encoders:
        if self._encoders is None:
            raise KnowledgeBaseError(f"{self.folder} was opened without a bundle: texts cannot be encoded")
        return self._encoders

    def _encode(self, passages: Sequence[Passage]) -> NDArray[np.float32]:
        vectors = self._need_encoders().passages([passage_text(p) for p in passages])
        check_vectors("the encoder's vectors", vectors, rows=len(passages), dim=self.settings.dim)
        return self._stored(vectors)

    def _stored(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return normalised(vectors) if self.settings.similarity == "cosine" else np.ascontiguousarray(vectors)
