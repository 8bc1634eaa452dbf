"""The whole way: a question is encoded, passages are searched, prompts are composed, and the answer is generated
token by token under all passages at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from rag_infer import marginalise
from rag_infer.answer import Answer, AnswerPassage, Token, token_texts
from rag_infer.bundle import Bundle
from rag_infer.encode import TextEncoder, encode_question, warn_of_long_questions
from rag_infer.errors import KnowledgeBaseError
from rag_infer.generate.config import GenerationConfig
from rag_infer.generate.generation import Generation
from rag_infer.generate.hypothesis import Hypothesis
from rag_infer.generator import PASSAGE_CACHE_MB, Generator
from rag_infer.knowledge import KnowledgeBase, ScoredPassage
from rag_infer.session import Cancellation, check_threads
from rag_infer.stream import AnswerStream
from rag_infer.text import check_question
from rag_infer.timing import Stopwatch

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
        encoder: TextEncoder,
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
            knowledge_base: the knowledge base's folder, or one that is open.
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
        given = isinstance(knowledge_base, KnowledgeBase)
        with ThreadPoolExecutor(max_workers=2) as pool:
            # Both leave Python alone for most of a second; nothing is answered before the weights are proven.
            weights = pool.submit(loaded.check_weights)
            loading = pool.submit(
                Generator, loaded, device=device, threads=threads, passage_cache_mb=passage_cache_mb
            )
            opened = (
                knowledge_base
                if isinstance(knowledge_base, KnowledgeBase)
                else KnowledgeBase.open(knowledge_base, bundle=loaded, device=device, threads=threads)
            )
            try:
                opened.check_bundle(loaded)
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
        self, question: str, *, k: int | None = None, where: Mapping[str, Any] | None = None
    ) -> list[ScoredPassage]:
        """The passages nearest to a question, best first.

        Args:
            question: the question.
            k: how many, default the bundle's n_docs.
            where: metadata fields and the values they must equal.

        Raises:
            ValueError: an empty question, or k below 1.
        """
        vectors = encode_question(self._encoder, _checked([question]))
        return self.knowledge_base.search_vectors(
            vectors, self._retrieval.n_docs if k is None else k, where=where
        )[0]

    @overload
    def generate(self, question: str, **settings: Any) -> Answer: ...

    @overload
    def generate(self, question: Sequence[str], **settings: Any) -> list[Answer]: ...

    def generate(
        self,
        question: str | Sequence[str],
        *,
        n_docs: int | None = None,
        where: Mapping[str, Any] | None = None,
        config: GenerationConfig | None = None,
        **settings: Any,
    ) -> Answer | list[Answer]:
        """Answer a question, or each of several.

        Args:
            question: a question, or a sequence of them.
            n_docs: passages to retrieve, default the bundle's.
            where: metadata fields and the values they must equal.
            config: generation settings, default the bundle's.
            settings: single settings of `GenerationConfig` by name, such as ``num_beams=4``.

        Raises:
            ValueError: an empty question, n_docs below 1, a setting out of its range.
            TypeError: an unknown setting.
            KnowledgeBaseError: there is no passage to answer from.
        """
        questions = [question] if isinstance(question, str) else list(question)
        chosen = (config or self.generator.defaults).updated(settings)
        _checked(questions)
        answers: list[Answer] = []
        for start in range(0, len(questions), QUESTIONS_PER_BATCH):
            batch = questions[start : start + QUESTIONS_PER_BATCH]
            answers += _Request(self, batch, n_docs, where, chosen).answers()
        return answers[0] if isinstance(question, str) else answers

    def stream(
        self,
        question: str,
        *,
        n_docs: int | None = None,
        where: Mapping[str, Any] | None = None,
        config: GenerationConfig | None = None,
        **settings: Any,
    ) -> AnswerStream:
        """Answer a question token by token; arguments and errors as `generate`.

        With beam search a token comes once all beams agree on it.
        """
        chosen = (config or self.generator.defaults).updated(settings)
        return AnswerStream(_Request(self, _checked([question]), n_docs, where, chosen))

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


class _Request:
    """A batch of questions on its way through the stages."""

    def __init__(
        self,
        engine: RagEngine,
        questions: list[str],
        n_docs: int | None,
        where: Mapping[str, Any] | None,
        config: GenerationConfig,
    ) -> None:
        self.cancellation = Cancellation()
        self.config = config
        self.questions = questions
        self._engine = engine
        self.watch = Stopwatch()
        retrieval = engine.bundle.manifest.retrieval
        warn_of_long_questions(engine._encoder, questions)
        with self.watch.measure("tokenise"):
            rows = engine._encoder.tokenise(questions)
        with self.watch.measure("encode"):
            vectors = engine._encoder.encode_tokens(rows)
        with self.watch.measure("search"):
            k = retrieval.n_docs if n_docs is None else n_docs
            self.passages, self._revision = engine.knowledge_base.search_revision(vectors, k, where=where)
        _check_found(self.passages, where)
        self._priors = [_priors(found, retrieval.score_scale) for found in self.passages]

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
                contexts, self._priors, self.config, cancellation=self.cancellation
            )

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
            text="".join(t.text for t in tokens).strip(),
            score=float(sum(t.log_prob for t in tokens)),
            passages=passages,
            tokens=tokens,
            timings=timings,
            revision=self._revision,
        )


def _checked(questions: list[str]) -> list[str]:
    return [check_question(question) for question in questions]


def _check_found(passages: Sequence[Sequence[ScoredPassage]], where: Mapping[str, Any] | None) -> None:
    if all(passages):
        return
    if where:
        raise KnowledgeBaseError(f"no passage has {dict(where)}: there is nothing to answer from")
    raise KnowledgeBaseError("the knowledge base is empty: add passages with 'rag-infer index add'")


def _priors(found: Sequence[ScoredPassage], score_scale: float) -> NDArray[np.float32]:
    return marginalise.log_priors(np.array([p.score for p in found], dtype=np.float32), score_scale)
