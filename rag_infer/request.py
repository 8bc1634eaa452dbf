"""A batch of questions on its way through the stages of an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rag_infer import marginalise
from rag_infer.answer import Answer, AnswerPassage, Token, token_texts
from rag_infer.encode import warn_of_long_questions
from rag_infer.errors import GenerationError, KnowledgeBaseError
from rag_infer.generate.config import GenerationConfig
from rag_infer.generate.generation import Generation
from rag_infer.generate.hypothesis import Hypothesis
from rag_infer.images.image import Image
from rag_infer.query import Query
from rag_infer.session import Cancellation
from rag_infer.timing import Stopwatch

if TYPE_CHECKING:
    from rag_infer.engine import RagEngine
    from rag_infer.knowledge import ScoredPassage, SearchConfig, SearchResult
    from rag_infer.knowledge.query_vectors import QueryVectors


class Request:
    """A batch of questions on its way through the stages."""

    def __init__(
        self,
        engine: RagEngine,
        queries: Sequence[Query],
        n_docs: int | None,
        where: Mapping[str, Any] | None,
        search: SearchConfig,
        config: GenerationConfig,
    ) -> None:
        self.cancellation = Cancellation()
        self.config = config
        self.queries = queries
        self.questions = [query.text for query in queries]
        self._engine = engine
        self.watch = Stopwatch()
        retrieval = engine.bundle.manifest.retrieval
        sees = "question" in (() if engine.generator.vision is None else engine.generator.vision.sources)
        unseen = not sees and any(query.image is not None for query in queries)
        search.check_questions(self.questions, images=unseen)
        vectors = self._vectors() if search.mode != "lexical" else None
        with self.watch.measure("search"):
            k = retrieval.n_docs if n_docs is None else n_docs
            self.passages, self._revision = self._found(vectors, k, where, search)
        if not all(self.passages):
            raise self._nothing_found(where, search)
        scale = search.prior_scale(retrieval.score_scale)
        self._priors = [_priors(found, scale) for found in self.passages]

    def _found(
        self,
        vectors: QueryVectors | NDArray[np.float32] | None,
        k: int,
        where: Mapping[str, Any] | None,
        search: SearchConfig,
    ) -> tuple[list[SearchResult], int]:
        """(The passages to answer each question from, the revision): where the generator reads images alone, those."""
        knowledge_base, vision = self._engine.knowledge_base, self._engine.generator.vision
        reads_only = () if vision is None or vision.reads_text else vision.sources
        if "question" in reads_only and any(query.image is None for query in self.queries):
            raise GenerationError("this generator describes the question's image, and a question has none")
        count = k
        while True:
            found, revision = knowledge_base.search_questions(
                self.questions, vectors, count, where=where, search=search
            )
            if "passage" not in reads_only:
                return found, revision
            for passages in found:
                passages[:] = [p for p in passages if p.image is not None][:k]
            if all(len(passages) == k for passages in found) or count >= len(knowledge_base):
                return found, revision
            count *= 4  # the others were texts alone

    def _vectors(self) -> QueryVectors | NDArray[np.float32]:
        encoder = self._engine._encoder
        if encoder is None or any(q.image is not None for q in self.queries):
            with self.watch.measure("encode"):
                return self._engine.knowledge_base.encode_queries(self.queries)
        warn_of_long_questions(encoder, self.questions)
        with self.watch.measure("tokenise"):
            rows = encoder.tokenise(self.questions)
        with self.watch.measure("encode"):
            return encoder.encode_tokens(rows)

    def _nothing_found(self, where: Mapping[str, Any] | None, search: SearchConfig) -> KnowledgeBaseError:
        if not len(self._engine.knowledge_base):
            return KnowledgeBaseError("the knowledge base is empty: add passages with 'rag-infer index add'")
        having = f" has {dict(where)}" if where else ""
        if search.mode != "dense":
            question = next(q for q, found in zip(self.questions, self.passages, strict=True) if not found)
            having += f"{' and' if where else ' has'} a word of {question!r}"
        return KnowledgeBaseError(f"no passage{having}: there is nothing to answer from")

    def begin(self) -> Generation:
        """Compose the prompts and read them."""
        composer = self._engine.generator.composer
        with self.watch.measure("compose"):
            contexts = [
                composer.compose(question, [(p.title, p.text) for p in found], compat=self.config.compat)
                for question, found in zip(self.questions, self.passages, strict=True)
            ]
        with self.watch.measure("prefill"):
            return self._engine.generator.begin(
                contexts, self._priors, self.config, images=self._images(), cancellation=self.cancellation
            )

    def _images(self) -> list[list[list[NDArray[np.uint8] | None]]] | None:
        """For a generator that sees, the images of each context in the order it reads them; each is read once."""
        vision = self._engine.generator.vision
        if vision is None:
            return None
        pixels: dict[Image, NDArray[np.uint8]] = {}

        def of(image: Image | None) -> NDArray[np.uint8] | None:
            if image is not None and image not in pixels:
                pixels[image] = image.pixels()
            return None if image is None else pixels[image]

        return [
            [
                [of(query.image if source == "question" else passage.image) for source in vision.sources]
                for passage in found
            ]
            for query, found in zip(self.queries, self.passages, strict=True)
        ]

    def answers(self) -> list[Answer]:
        """Generate to the end."""
        return self.finish(self.begin())

    def finish(self, generation: Generation) -> list[Answer]:
        """Run what is left of a generation and give its answers."""
        with self.watch.measure("decode"):
            found = generation.results()
        timings = self.watch.timings()
        answers = []
        for i, results in enumerate(found):
            best, *others = [self._answer(i, f.hypothesis.chain(), timings) for f in results]
            answers.append(Answer(**{**vars(best), "alternatives": tuple(others)}))
        return answers

    def tokens(self, chain: Sequence[Hypothesis], *, final: bool = True) -> list[Token]:
        """The links of a chain as tokens with their text; ``final`` where no link will follow."""
        tokenizer = self._engine.generator.tokenizer
        texts = token_texts(tokenizer, [h.token for h in chain], self.config.stop_strings, final=final)
        return [Token(t, h.log_prob, h.posterior) for t, h in zip(texts, chain, strict=True)]

    def _answer(self, index: int, chain: Sequence[Hypothesis], timings: Mapping[str, float]) -> Answer:
        tokens = self.tokens(chain)
        shares = [t.posterior for t in tokens]
        # Under RAG-Sequence one passage is behind the whole answer.
        posterior = np.mean(shares, axis=0) if self.config.strategy == "rag-token" else shares[-1]
        passages = [
            AnswerPassage(
                id=p.id,
                title=p.title,
                text=p.text,
                metadata=p.metadata,
                image=p.image,
                score=p.score,
                prior=float(prior),
                posterior=float(share),
            )
            for p, prior, share in zip(
                self.passages[index], np.exp(self._priors[index]), posterior, strict=True
            )
        ]
        return Answer(
            question=self.questions[index],
            question_image=self.queries[index].image,
            text="".join(t.text for t in tokens).strip(),
            score=float(sum(t.log_prob for t in tokens)),
            passages=passages,
            tokens=tokens,
            timings=timings,
            revision=self._revision,
        )


def _priors(found: Sequence[ScoredPassage], score_scale: float) -> NDArray[np.float32]:
    return marginalise.log_priors(np.array([p.score for p in found], dtype=np.float32), score_scale)
