"""The generator alone: contexts in, sequences out, marginalised over passages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag_infer import marginalise
from rag_infer._arrays import check_contexts, check_labels
from rag_infer.bundle import Bundle
from rag_infer.compose import CausalComposer, CausalContext
from rag_infer.errors import BundleError, GenerationError
from rag_infer.generate.causal import CausalDecoder
from rag_infer.generate.config import GenerationConfig
from rag_infer.generate.constraints import processors
from rag_infer.generate.rag_token import Request, decode, new_search
from rag_infer.generate.search import Finished, Stop
from rag_infer.generate.stop import stop_condition
from rag_infer.session import Cancellation, Session, check_threads
from rag_infer.text import Tokenizer

Float = NDArray[np.float32]


@dataclass(frozen=True)
class GeneratorOutput:
    """Sequences for a batch of questions.

    Attributes:
        sequences: int64 ``[questions * num_return_sequences, tokens]``, padded with the pad id. A decoder-only
            generator's hold the generated tokens alone: the prompts differ from passage to passage.
        scores: float32 ``[questions * num_return_sequences]``, as transformers' sequences_scores (log-probability
            over length ** length_penalty for beam search); minus infinity for a row no sequence was found for.
        doc_posterior: float32 ``[questions * num_return_sequences, tokens, n_docs]``, p(z_t | x, y_<=t);
            the prior where a row is padding.
    """

    sequences: NDArray[np.int64]
    scores: Float
    doc_posterior: Float


class Generation:
    """A batch of questions in progress: iterate to advance all by a token; `results` when exhausted."""

    def __init__(self, requests: list[Request], steps: Iterator[None]) -> None:
        self._steps = steps
        self.requests = requests

    def __iter__(self) -> Iterator[None]:
        """Yield after each token."""
        return self._steps

    def results(self) -> list[list[Finished]]:
        """Per question its complete sequences, best first; runs what is left to run.

        Raises:
            GenerationError: the constraints left a question without any sequence.
        """
        for _ in self._steps:
            pass
        found = [r.search.results() for r in self.requests]
        for i, results in enumerate(found):
            if not results:
                raise GenerationError(f"question {i}: the constraints leave no possible next token")
        return found


class Generator:
    """A generator of a bundle. Safe to share between threads.

    Attributes:
        defaults: the bundle's generation settings.
        tokenizer: text to token ids and back.
        composer: (question, passage) to contexts.
    """

    def __init__(self, bundle: Bundle, *, device: str = "cpu", threads: int | None = None) -> None:
        part = bundle.manifest.generator
        if part is None:
            raise BundleError(f"the bundle {bundle.folder} has no generator")
        self._part = part
        # The kernels share the processors with ONNX Runtime's pool, and are done before threads pay.
        self._kernel_threads = 1
        self._decoder = CausalDecoder(
            Session(bundle.file(part, part.graph), device=device, threads=check_threads(threads)), part
        )
        self.tokenizer = Tokenizer(bundle.file(part, "tokenizer.json"))
        self.composer = CausalComposer(self.tokenizer, part)
        try:
            self.defaults = GenerationConfig().updated(bundle.manifest.generation)
        except (TypeError, ValueError) as error:
            raise BundleError(f"{bundle.folder}: generation: {error}") from None

    @classmethod
    def from_pretrained(
        cls, bundle: str | Path, *, device: str = "cpu", threads: int | None = None
    ) -> Generator:
        """Load the generator of a bundle.

        Args:
            bundle: the bundle's folder.
            device: "cpu", "cuda" or "cuda:N".
            threads: default: the processors this process may run on.

        Raises:
            BundleError: the bundle is not whole, or has no generator.
            DeviceError: the device is not to be had.
        """
        return cls(Bundle.load(bundle), device=device, threads=threads)

    def begin(
        self,
        contexts: Sequence[Sequence[CausalContext]],
        priors: Sequence[Float],
        config: GenerationConfig,
        *,
        cancellation: Cancellation | None = None,
    ) -> Generation:
        """Read the prompts of a batch and be ready to generate.

        Args:
            contexts: per question one context per passage, from `composer`.
            priors: per question log p(z|x), float32 ``[n_docs]``.
            config: settings.
            cancellation: stops a run in progress.
        """
        if not contexts or not all(contexts):
            raise ValueError("there must be at least one question, and a context for each")
        rows = [c for question in contexts for c in question]
        pieces = [[c.passage_ids for c in rows], [c.question_ids for c in rows]]
        return self._begin(self.composer.preamble_ids, pieces, priors, config, cancellation)

    def generate_from_contexts(
        self,
        context_input_ids: NDArray[np.int64],
        context_attention_mask: NDArray[np.int64],
        doc_scores: Float,
        *,
        config: GenerationConfig | None = None,
    ) -> GeneratorOutput:
        """Generate from contexts that are already tokenised.

        Args:
            context_input_ids: int64 ``[questions * n_docs, tokens]``, question-major, right-padded. For a
                decoder-only generator a context is the whole prompt.
            context_attention_mask: int64, same shape, 1 where a token counts.
            doc_scores: float32 ``[questions, n_docs]``, retrieval scores as they go into the softmax (as in
                transformers; a bundle's ``score_scale`` belongs to its retrieval and is not applied here), minus
                infinity for weight zero.
            config: settings, default the bundle's.

        Raises:
            TypeError: an array of another dtype.
            ValueError: shapes that do not fit, a context without tokens, a NaN score, a token id outside the
                vocabulary.
        """
        config = config or self.defaults
        rows = check_contexts(
            context_input_ids, context_attention_mask, doc_scores, vocab_size=self._part.vocab_size
        )
        priors = list(marginalise.log_priors(doc_scores))
        generation = self._begin((), [rows], priors, config, None)
        return self._collect(generation.results(), np.exp(np.stack(priors)), config.num_return_sequences)

    def score(
        self,
        context_input_ids: NDArray[np.int64],
        context_attention_mask: NDArray[np.int64],
        doc_scores: Float,
        labels: NDArray[np.int64],
        *,
        strategy: str = "rag-token",
    ) -> Float:
        """Negative log-likelihood of given answers, -log p(y|x), summed over their tokens.

        Args:
            context_input_ids, context_attention_mask, doc_scores: as for `generate_from_contexts`.
            labels: int64 ``[questions, tokens]``, the answers, right-padded with -100 (not scored).
            strategy: "rag-token", or "rag-sequence": -log sum_z p(z|x) prod_t p(y_t | x, z, y_<t).

        Returns:
            float32 ``[questions]``, natural logarithm.

        Raises:
            TypeError: an array of another dtype.
            ValueError: shapes that do not fit, a label outside the vocabulary, an unknown strategy.
        """
        if strategy not in ("rag-token", "rag-sequence"):
            raise ValueError(f"unknown strategy {strategy!r}: expected 'rag-token' or 'rag-sequence'")
        vocab_size = self._part.vocab_size
        rows = check_contexts(context_input_ids, context_attention_mask, doc_scores, vocab_size=vocab_size)
        answers = check_labels(labels, questions=len(doc_scores), vocab_size=vocab_size)
        priors = marginalise.log_priors(doc_scores)
        num_docs = doc_scores.shape[1]
        losses = []
        for i, answer in enumerate(answers):
            logits = self._decoder.teacher_force(rows[i * num_docs : (i + 1) * num_docs], answer)
            tokens = np.array(answer, dtype=np.int64)[:, None]
            losses.append(-marginalise.sequence_log_prob(logits, priors[i], tokens, strategy=strategy))
        return np.array(losses, dtype=np.float32)

    def _begin(
        self,
        preamble: Sequence[int],
        pieces: list[list[tuple[int, ...]]],
        priors: Sequence[Float],
        config: GenerationConfig,
        cancellation: Cancellation | None,
    ) -> Generation:
        eos = self._part.eos_token_ids
        constraints = processors(config, eos_token_ids=eos, vocab_size=self._part.vocab_size)
        stop: Stop = stop_condition(self.tokenizer, eos, config.stop_strings)
        requests = [Request(p, new_search(config, stop, num_eos=len(eos))) for p in priors]
        # Room for the first tokens of all beams; longer answers grow the cache.
        reserve = max(config.num_beams, config.num_return_sequences) * min(config.max_tokens, 16)
        state, logits = self._decoder.prefill(preamble, pieces, reserve=reserve, cancellation=cancellation)
        steps = decode(
            self._decoder,
            state,
            logits,
            requests,
            constraints,
            threads=self._kernel_threads,
            cancellation=cancellation,
        )
        return Generation(requests, steps)

    def _collect(self, found: list[list[Finished]], priors: Float, count: int) -> GeneratorOutput:
        tokens = max(len(f.hypothesis.tokens) for results in found for f in results)
        rows = len(found) * count
        sequences = np.full((rows, tokens), self._part.pad_token_id, dtype=np.int64)
        scores = np.full(rows, -np.inf, dtype=np.float32)
        posterior = np.repeat(priors.astype(np.float32), count, axis=0)[:, None, :].repeat(tokens, axis=1)
        for i, results in enumerate(found):
            for j, finished in enumerate(results[:count]):
                chain = finished.hypothesis.chain()
                row = i * count + j
                sequences[row, : len(chain)] = [h.token for h in chain]
                scores[row] = finished.ranked_score
                posterior[row, : len(chain)] = [h.posterior for h in chain]
        return GeneratorOutput(sequences, scores, posterior)
