"""The whole way: a question is encoded, passages are searched, prompts are composed, and the answer is generated
token by token under all passages at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from rag_infer.answer import Answer
from rag_infer.bundle import Bundle
from rag_infer.encode import TextEncoder, encode_question
from rag_infer.generate.config import GenerationConfig
from rag_infer.generator import PASSAGE_CACHE_MB, Generator
from rag_infer.query import Query, Question, as_queries, is_one_question
from rag_infer.request import Request
from rag_infer.session import check_threads
from rag_infer.stream import AnswerStream

if TYPE_CHECKING:
    from rag_infer.knowledge import KnowledgeBase, ScoredPassage, SearchConfig
    from rag_infer.knowledge.query_vectors import QueryVectors

# Questions generated side by side. More would read the weights less often per question, but their caches of
# keys and values would no longer be small.
QUESTIONS_PER_BATCH = 4


class RagEngine:
    """Answers questions from a knowledge base with a bundle's models. Safe to share between threads.

    Make one with `from_pretrained`.
    """

    def __init__(
        self,
        bundle: Bundle,
        knowledge_base: KnowledgeBase,
        encoder: TextEncoder | None,
        generator: Generator,
        *,
        owns_knowledge_base: bool = True,
    ) -> None:
        self.bundle = bundle
        self.knowledge_base = knowledge_base
        self.generator = generator
        self._owns_knowledge_base = owns_knowledge_base
        self._encoder = encoder
        self._retrieval = bundle.manifest.retrieval

    @classmethod
    def from_pretrained(
        cls,
        bundle: str | Path,
        *,
        knowledge_base: str | Path | KnowledgeBase,
        device: str = "cpu",
        threads: int | None = None,
        passage_cache_mb: int = PASSAGE_CACHE_MB,
    ) -> RagEngine:
        """Load a bundle and open a knowledge base made with it.

        Args:
            bundle: the bundle's folder.
            knowledge_base: the knowledge base's folder or address, or one that is open.
            device: "cpu", "cuda" or "cuda:N".
            threads: default: the processors this process may run on.
            passage_cache_mb: see `Generator.from_pretrained`.

        Raises:
            BundleError: the bundle is not whole, or lacks an encoder or the generator.
            KnowledgeBaseError: no such knowledge base, or it was made with another encoder.
            DeviceError: the device is not to be had, or int8 does not run on it.
        """
        threads = check_threads(threads)
        loaded = Bundle.load(bundle, check="graphs")
        with ThreadPoolExecutor(max_workers=2) as pool:
            # Both leave Python alone for most of a second; nothing is answered before the weights are proven.
            weights = pool.submit(loaded.check_weights)
            loading = pool.submit(
                Generator, loaded, device=device, threads=threads, passage_cache_mb=passage_cache_mb
            )
            from rag_infer.knowledge import KnowledgeBase  # takes a tenth of a second, in which they get on

            given = isinstance(knowledge_base, KnowledgeBase)
            opened = (
                knowledge_base
                if isinstance(knowledge_base, KnowledgeBase)
                else KnowledgeBase.open(knowledge_base, bundle=loaded, device=device, threads=threads)
            )
            try:
                opened.check_bundle(loaded)
                encoder = None  # where there are images, the knowledge base encodes the questions
                if not opened.settings.image_dim:
                    part = loaded.manifest.question_encoder
                    encoder = TextEncoder.from_bundle(loaded, part, device=device, threads=threads)
                weights.result()
                generator = loading.result()
            except BaseException:
                if not given:
                    opened.close()
                raise
        return cls(loaded, opened, encoder, generator, owns_knowledge_base=not given)

    def search(
        self,
        question: Question,
        *,
        k: int | None = None,
        where: Mapping[str, Any] | None = None,
        search: SearchConfig | None = None,
    ) -> list[ScoredPassage]:
        """The passages that fit a question best, best first.

        Args:
            question: a text, an image, or a `Query` with both (see `KnowledgeBase.search`).
            k: how many, default the bundle's n_docs.
            where: a condition on metadata (see `KnowledgeBase.search`).
            search: how to search, default by vectors.

        Raises:
            ValueError: an empty question, or k below 1.
            KnowledgeBaseError, ImageError: an image that cannot be encoded, or not be read.
        """
        query, chosen = Query.of(question), self._search_config(search)
        chosen.check_questions([query.text], images=query.image is not None)
        vectors = None if chosen.mode == "lexical" else self._vectors([query])
        k = self._retrieval.n_docs if k is None else k
        return self.knowledge_base.search_questions([query.text], vectors, k, where=where, search=chosen)[0][
            0
        ]

    def _vectors(self, queries: Sequence[Query]) -> QueryVectors | NDArray[np.float32]:
        if self._encoder is None or any(query.image is not None for query in queries):
            return self.knowledge_base.encode_queries(queries)
        return encode_question(self._encoder, [query.text for query in queries])

    @overload
    def generate(self, question: str | Query | Mapping[str, Any], **settings: Any) -> Answer: ...

    @overload
    def generate(self, question: Sequence[Question], **settings: Any) -> list[Answer]: ...

    def generate(
        self,
        question: Question | Sequence[Question],
        *,
        n_docs: int | None = None,
        where: Mapping[str, Any] | None = None,
        search: SearchConfig | None = None,
        config: GenerationConfig | None = None,
        **settings: Any,
    ) -> Answer | list[Answer]:
        """Answer a question, or each of several.

        Args:
            question: a question, or a sequence of them: a text, an image, or a `Query` with both (see
                `KnowledgeBase.search`).
            n_docs: passages to retrieve, default the bundle's.
            where: a condition on metadata (see `KnowledgeBase.search`).
            search: how to search, default by vectors; it says too how scores become priors.
            config: generation settings, default the bundle's.
            settings: single settings of `GenerationConfig` by name, such as ``num_beams=4``.

        Raises:
            ValueError: an empty question, n_docs below 1, a setting out of its range.
            TypeError: an unknown setting.
            KnowledgeBaseError: there is no passage to answer from, or by words alone none that has any; an image, and
                no image encoder.
            ImageError: an image cannot be read.
        """
        questions = as_queries(question)
        chosen = (config or self.generator.defaults).updated(settings)
        answers: list[Answer] = []
        for start in range(0, len(questions), QUESTIONS_PER_BATCH):
            batch = questions[start : start + QUESTIONS_PER_BATCH]
            answers += Request(self, batch, n_docs, where, self._search_config(search), chosen).answers()
        return answers[0] if is_one_question(question) else answers

    def stream(
        self,
        question: Question,
        *,
        n_docs: int | None = None,
        where: Mapping[str, Any] | None = None,
        search: SearchConfig | None = None,
        config: GenerationConfig | None = None,
        **settings: Any,
    ) -> AnswerStream:
        """Answer a question token by token; arguments and errors as `generate`.

        With beam search a token comes once all beams agree on it.
        """
        chosen = (config or self.generator.defaults).updated(settings)
        request = Request(self, [Query.of(question)], n_docs, where, self._search_config(search), chosen)
        return AnswerStream(request)

    def _search_config(self, search: SearchConfig | None) -> SearchConfig:
        from rag_infer.knowledge.search_config import search_config

        chosen = search_config(search)
        scale = self._retrieval.score_scale if chosen.dense_scale is None else chosen.dense_scale
        return replace(chosen, dense_scale=scale)

    def close(self) -> None:
        """Close the knowledge base, unless it was open when it was given."""
        if self._owns_knowledge_base:
            self.knowledge_base.close()

    def __enter__(self) -> RagEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
