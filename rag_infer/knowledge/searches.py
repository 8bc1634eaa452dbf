"""Reading a knowledge base: passages by id, and by how well they fit a question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge.arguments import check_ids, check_vectors
from rag_infer.knowledge.hybrid import TextSearch
from rag_infer.knowledge.kinds import ModalSearch
from rag_infer.knowledge.opened import Opened
from rag_infer.knowledge.passage import Passage
from rag_infer.knowledge.queries import passages_by_id
from rag_infer.knowledge.query_vectors import QueryVectors
from rag_infer.knowledge.schema import read_state
from rag_infer.knowledge.search import SearchResult, check_k
from rag_infer.knowledge.search import search as search_rows
from rag_infer.knowledge.search_config import MODAL_FUSIONS, SearchConfig, search_config
from rag_infer.knowledge.similarity import as_stored
from rag_infer.query import Query, Question, as_queries, is_one_question


class Searches(Opened):
    """What is read of a knowledge base; each call sees one revision, whole."""

    def get(self, ids: Iterable[str]) -> list[Passage | None]:
        """The passages of ids, in their order; None where there is none."""
        wanted = check_ids(ids)
        self._demand_whole()
        with self._record.reading() as connection:
            found = passages_by_id(connection, list(dict.fromkeys(wanted)))
        located = {i: self._writer.images.located(passage) for i, passage in found.items()}
        return [located.get(i) for i in wanted]

    def __len__(self) -> int:
        with self._record.reading() as connection:
            return read_state(connection).passages

    @property
    def revision(self) -> int:
        """Number of the last commit that changed passages; 0 for an empty knowledge base."""
        with self._record.reading() as connection:
            return read_state(connection).revision

    @overload
    def search(  # a str is a Sequence[str] too: the first one counts
        self,
        question: Question,
        k: int = 5,
        *,
        where: Mapping[str, Any] | None = None,
        search: SearchConfig | None = None,
        **settings: Any,
    ) -> SearchResult: ...

    @overload
    def search(
        self,
        question: Sequence[Question],
        k: int = 5,
        *,
        where: Mapping[str, Any] | None = None,
        search: SearchConfig | None = None,
        **settings: Any,
    ) -> list[SearchResult]: ...

    def search(
        self,
        question: Question | Sequence[Question],
        k: int = 5,
        *,
        where: Mapping[str, Any] | None = None,
        search: SearchConfig | None = None,
        **settings: Any,
    ) -> SearchResult | list[SearchResult]:
        """The passages that fit a question best, or each of several, best first.

        Args:
            question: a question, or a sequence of them: a text, an image, or a `Query` with both. A string is always
                text; an image is a path object, bytes, a PIL image, a uint8 array or ``{"image": path}``.
            k: how many; fewer are returned where there are no more.
            where: a condition on metadata: ``{"topic": "Arts"}`` (equal), or operators, ``{"year": {"$gte": 1900}}``:
                $ne, $in, $nin, $lt, $lte, $gt, $gte, $exists, and $contains (an element of a list); $and and $or of a
                list of conditions, $not of one. Several fields must all hold. Exact, however few fit.
            search: how to search, default by vectors.
            settings: single settings of `SearchConfig` by name, such as ``mode="hybrid"``.

        Raises:
            TypeError: an unknown setting, or ``search`` is no `SearchConfig`.
            ValueError: k below 1, an empty question, a setting out of its range, a condition with an unknown operator,
                or on a field that no passage has.
            KnowledgeBaseError: opened without an encoder, which only "lexical" does without; an image, and no image
                encoder; a fusion of texts and images where there are no images.
            ImageError: an image cannot be read.
        """
        check_k(k)
        chosen = search_config(search).updated(settings)
        queries = as_queries(question)
        chosen.check_questions([q.text for q in queries], images=any(q.image is not None for q in queries))
        vectors = None if chosen.mode == "lexical" else self.encode_queries(queries)
        found = self.search_questions([q.text for q in queries], vectors, k, where=where, search=chosen)[0]
        return found[0] if is_one_question(question) else found

    def encode_queries(self, queries: Sequence[Query]) -> QueryVectors:
        """The vectors of questions, those of their texts and of their images each by themselves.

        Raises:
            KnowledgeBaseError: opened without an encoder; an image, and no image encoder.
            ImageError: an image cannot be read.
        """
        return self._need_encoders().of_queries(queries)

    def search_questions(
        self,
        questions: Sequence[str],
        vectors: NDArray[np.float32] | QueryVectors | None,
        k: int,
        *,
        where: Mapping[str, Any] | None = None,
        search: SearchConfig,
    ) -> tuple[list[SearchResult], int]:
        """(The passages that fit each question best, the revision they were found in).

        Args:
            questions: their texts, "" where there is none.
            vectors: of the questions' texts, float32 ``[questions, dim]``, of the question encoder; or of their texts
                and images; None where ``search`` is "lexical".
            k, where, search: as for `search`.

        Raises:
            TypeError, ValueError: vectors of another dtype or shape, or not finite; k below 1; a search by words for an
                image.
            KnowledgeBaseError: a fusion of texts and images where there are no images.
        """
        search.check_questions(questions)
        if self.settings.image_dim:
            return self._search_modalities(questions, vectors, k, where=where, search=search)
        if search.fusion in MODAL_FUSIONS or search.center:
            raise KnowledgeBaseError(
                f"{self.place} has vectors of texts alone: {'center' if search.center else search.fusion} is for texts "
                "and images, with a bundle that has an image encoder"
            )
        if isinstance(vectors, QueryVectors):
            vectors = vectors.text
        if search.mode == "lexical":
            queries = np.zeros((len(questions), self.settings.dim), dtype=np.float32)  # nobody looks at them
        elif vectors is None:
            raise ValueError(f"a search of mode {search.mode!r} needs the questions' vectors")
        elif search.mode == "dense":
            return self.search_revision(vectors, k, where=where)
        else:
            check_vectors("vectors", vectors, rows=len(questions), dim=self.settings.dim)
            queries = self._stored(vectors)
        check_k(k)
        self._demand_whole()
        scale = 1.0 if self._encoders is None else self._encoders.score_scale
        texts = TextSearch(questions=questions, config=search, score_scale=scale)
        return search_rows(
            self._record,
            self._views,
            self._index,
            queries,
            k,
            where,
            threads=self._threads,
            texts=texts,
            images=self._writer.images,
        )

    def _search_modalities(
        self,
        questions: Sequence[str],
        vectors: NDArray[np.float32] | QueryVectors | None,
        k: int,
        *,
        where: Mapping[str, Any] | None,
        search: SearchConfig,
    ) -> tuple[list[SearchResult], int]:
        check_k(k)
        self._demand_whole()
        modal = texts = None
        if search.mode != "lexical":
            if vectors is None:
                raise ValueError(f"a search of mode {search.mode!r} needs the questions' vectors")
            if not isinstance(vectors, QueryVectors):
                text_dim = self.settings.dim - self.settings.image_dim
                check_vectors("vectors", vectors, rows=len(questions), dim=text_dim)
                similarity = self._need_encoders().part_similarity
                vectors = QueryVectors.of_texts(as_stored(vectors, similarity), self.settings.image_dim)
            modal = ModalSearch(queries=vectors, config=search, settings=self.settings)
        if search.mode != "dense":
            if search.mode == "hybrid" and search.fusion == "weighted":
                raise KnowledgeBaseError(
                    f"{self.place} has images, whose scores have no common scale with those of words: use "
                    "fusion 'reciprocal_rank' in a hybrid search"
                )
            texts = TextSearch(questions=questions, config=search)
        nobody = np.zeros((len(questions), self.settings.dim), dtype=np.float32)
        return search_rows(
            *(self._record, self._views, self._index, nobody, k, where),
            threads=self._threads,
            texts=texts,
            modal=modal,
            images=self._writer.images,
        )

    def search_vectors(
        self, vectors: NDArray[np.float32], k: int, *, where: Mapping[str, Any] | None = None
    ) -> list[SearchResult]:
        """The passages nearest to each vector, best first; equal scores by age, the older first.

        Args:
            vectors: float32 ``[queries, dim]``.
            k: how many; fewer are returned where there are no more.
            where: a condition on metadata (see `search`).

        Raises:
            TypeError, ValueError: vectors of another dtype or shape, or not finite; k below 1; a condition as in
                `search`.
        """
        return self.search_revision(vectors, k, where=where)[0]

    def search_revision(
        self, vectors: NDArray[np.float32], k: int, *, where: Mapping[str, Any] | None = None
    ) -> tuple[list[SearchResult], int]:
        """(What `search_vectors` finds, the revision it was found in)."""
        check_k(k)
        check_vectors("vectors", vectors, rows=None, dim=self.settings.dim)
        self._demand_whole()
        queries = self._stored(vectors)
        return search_rows(
            *(self._record, self._views, self._index, queries, k, where),
            threads=self._threads,
            images=self._writer.images,
        )
