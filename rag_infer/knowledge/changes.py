"""Changing a knowledge base: passages, their metadata, and the index over them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError, KnowledgeBaseError
from rag_infer.knowledge import maintenance
from rag_infer.knowledge.arguments import check_ids, check_parts, check_vectors
from rag_infer.knowledge.chunk import Chunker, forget_stale_chunks
from rag_infer.knowledge.conditions import demand_condition
from rag_infer.knowledge.document import Document
from rag_infer.knowledge.index import check_kind, check_min_recall
from rag_infer.knowledge.kinds import count_moments
from rag_infer.knowledge.moments import read_moments, write_moments
from rag_infer.knowledge.passage import Passage
from rag_infer.knowledge.queries import known_passages, passages_by_id
from rag_infer.knowledge.revision import through_compactions
from rag_infer.knowledge.scan import check_scan_kind
from rag_infer.knowledge.schema import read_settings, write_settings
from rag_infer.knowledge.searches import Searches
from rag_infer.knowledge.transaction import Upserted
from rag_infer.knowledge.upsert import Upsert, batches_of
from rag_infer.query import Query
from rag_infer.text import check_question


class Changes(Searches):
    """What is changed in a knowledge base; each call is one transaction."""

    def upsert(
        self,
        passages: Iterable[Passage],
        vectors: NDArray[np.float32] | None = None,
        *,
        deduplicate: bool = False,
    ) -> Upserted:
        """Add passages, replacing those with the same id. All of them become visible at once.

        A passage that is there with the same contents costs no work, other metadata alone are changed in place. Of
        several with the same id the last counts.

        Args:
            passages: any number, read a batch at a time and committed together.
            vectors: float32 ``[passages, dim]``, where they are known already; where there are images, that of the text
                and that of the image side by side, zeros for what a passage lacks.
            deduplicate: leave out a new passage whose title and text another one has.

        Raises:
            TypeError, ValueError: something else than passages; vectors of another dtype or shape, or not finite.
            KnowledgeBaseError: opened without encoder, another writer, or a full disk. What was committed is kept.
        """
        if vectors is not None:
            passages = list(passages)
            check_vectors("vectors", vectors, rows=len(passages), dim=self.settings.dim)
            check_parts(passages, vectors, image_dim=self.settings.image_dim)
        upsert = Upsert(self._writer, self._encode, deduplicate=deduplicate)
        done = upsert.run(batches_of(passages, vectors, stored=self._stored))
        self._index.changed()
        return done

    def foresee(self, passages: Iterable[Passage], *, deduplicate: bool = False) -> list[list[Passage]]:
        """The passages that `upsert` would now encode, those of one call of the encoder in one list."""
        upsert = Upsert(self._writer, self._encode, deduplicate=deduplicate)
        return upsert.foresee(batches_of(passages, None, stored=self._stored))

    def update_metadata(self, changes: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Change fields of passages' metadata, and leave their other fields, texts and vectors as they are.

        Args:
            changes: for ids the fields to set; all become visible at once.

        Returns:
            The ids that were there. Unknown ids are no error.

        Raises:
            TypeError, ValueError: metadata that a `Passage` does not take.
        """
        if not isinstance(changes, Mapping):
            raise TypeError(f"changes must be a mapping of ids, got {type(changes).__name__}")
        ids = check_ids(changes)
        for id_ in ids:
            Passage(
                id_, "text", metadata=changes[id_]
            )  # which refuses what cannot be metadata, whoever is there
        with self._writer.transaction() as transaction:
            known = known_passages(transaction.connection, ids)
            passages = passages_by_id(transaction.connection, list(known))
            merged = [replace(passages[i], metadata={**passages[i].metadata, **changes[i]}) for i in known]
            transaction.describe(list(known.values()), [p.metadata for p in merged])
        return [i for i in ids if i in known]

    def upsert_documents(self, documents: Iterable[Document], chunker: Chunker) -> Upserted:
        """Cut documents into passages and upsert these, in one transaction.

        Passages of an earlier, longer version of a document are deleted with it.

        Raises:
            TypeError, ValueError: as `Chunker.chunks`.
            KnowledgeBaseError: as `upsert`.
        """
        upsert, total = Upsert(self._writer, self._encode, deduplicate=False), Upserted()
        with self._writer.transaction() as transaction:
            for document in documents:
                chunks = list(chunker.chunks(document))
                forget_stale_chunks(transaction.remove, document.id, count=len(chunks))
                done = upsert.into(transaction, batches_of(chunks, None, stored=self._stored))
                total = total.plus(done)
        self._index.changed()
        return total

    def delete(self, ids: Iterable[str] = (), *, where: Mapping[str, Any] | None = None) -> list[str]:
        """Delete passages; returns the ids of those that were there. Unknown ids are no error.

        Args:
            ids: which.
            where: those too that fit this condition on metadata (see `search`).

        Raises:
            TypeError, ValueError: ids that are no strings, a condition that is none or asks for nothing.
        """
        wanted = list(dict.fromkeys(check_ids(ids)))
        condition = None if where is None else demand_condition(where)
        with self._writer.transaction() as transaction:
            deleted = transaction.remove(wanted)
            if condition is not None:
                deleted += transaction.remove_where(condition)
        self._index.changed()
        return deleted

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other writers out for a ``with`` block; each upsert in it is still committed by itself."""
        with self._writer.session():
            yield

    def build_index(
        self,
        kind: str | None = None,
        *,
        scan: str | None = None,
        min_recall: float | None = None,
        queries: NDArray[np.float32] | Sequence[str] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> bool:
        """Make, renew or drop the HNSW index and the codes as needed; `upsert` leaves them behind.

        Others may search and write meanwhile. An HNSW index whose recall is below `min_recall` is made larger, and
        if that does not help not used: a `RagInferWarning` has the numbers.

        Args:
            kind: "auto", "exact" or "hnsw"; None, here and below, for what the knowledge base was made with.
            scan: "auto", "float32", "float16" or "int8".
            min_recall: from 0 to 1.
            queries: questions to measure recall with, or vectors of them, float32 ``[queries, dim]``; None to draw
                stored vectors. A graph that was measured with stored ones is then made anew.
            on_progress: called with numbers of vectors indexed.

        Returns:
            Whether anything was done.

        Raises:
            TypeError, ValueError: an unknown kind; queries of another dtype or shape, none, or not finite.
            KnowledgeBaseError: another process builds or writes, or the disk is full.
        """
        changes: dict[str, Any] = {}
        if kind is not None:
            changes["index"] = check_kind(kind)
        if scan is not None:
            changes["scan"] = check_scan_kind(scan)
        if min_recall is not None:
            changes["min_recall"] = check_min_recall(min_recall)
        held_out = None if queries is None else self._held_out(queries)
        if changes:
            with self._writer.session(), self._record.writing() as connection:
                settings = read_settings(connection, self._record.path)
                write_settings(connection, replace(settings, **changes))
        self._count_moments()
        return self._index.rebuild.refresh(queries=held_out, on_progress=on_progress)

    def _count_moments(self) -> None:
        """Keep the mean and the spread of the vectors of texts and of images, as they are now (see `moments`)."""
        if not self.settings.image_dim:
            return
        with self._record.reading() as connection:
            view = through_compactions(connection, self._views.at)
            with contextlib.suppress(CorruptIndexError):  # they are written anew
                known = read_moments(connection)
                if known and all(m.revision == view.state.revision for m in known.values()):
                    return
            counted = count_moments(connection, view, self.settings)
        with self._writer.session(), self._record.writing() as connection:
            write_moments(connection, counted)

    def compact(self) -> None:
        """Give back the space of replaced and deleted passages and of their images, and renew the HNSW index.

        Raises:
            CorruptIndexError: something is damaged (see `check`). Nothing is changed.
            KnowledgeBaseError: another writer, or a full disk. Nothing is changed.
        """
        with self._writer.session():
            with self._record.reading() as connection:
                vectors = self._views.at(connection).vectors
            maintenance.compact(self._writer, vectors, dim=self.settings.dim)
            with self._record.reading() as connection:
                self._writer.images.remove_unused(connection)
            # It is compacted; what cannot be counted now is counted when it is needed.
            with contextlib.suppress(KnowledgeBaseError):
                self._count_moments()
        self._index.rebuild.refresh()  # without the writer lock: others may write meanwhile

    def _held_out(self, queries: NDArray[np.float32] | Sequence[str]) -> NDArray[np.float32]:
        if not len(queries):
            raise ValueError("queries must hold at least one question, got none")
        if not isinstance(queries, np.ndarray):
            queries = self._question_vectors([check_question(q) for q in queries])
        check_vectors("queries", queries, rows=None, dim=self.settings.dim)
        return self._stored(queries)

    def _question_vectors(self, questions: Sequence[str]) -> NDArray[np.float32]:
        """Vectors to search the stored ones with, float32 ``[questions, dim]``."""
        if not self.settings.image_dim:
            return self._need_encoders().questions(questions)
        vectors = np.zeros((len(questions), self.settings.dim), dtype=np.float32)
        texts = self._need_encoders().of_queries([Query(q) for q in questions]).text
        vectors[:, : texts.shape[1]] = texts
        return vectors
