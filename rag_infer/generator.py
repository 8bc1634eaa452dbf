"""The generator alone: contexts in, sequences out, marginalised over passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag_infer import marginalise
from rag_infer._arrays import check_labels
from rag_infer.bundle import Bundle
from rag_infer.compose import Composer, Context, new_composer
from rag_infer.errors import BundleError
from rag_infer.generate.config import GenerationConfig
from rag_infer.generate.constraints import processors
from rag_infer.generate.contexts import given_rows
from rag_infer.generate.generation import Generation
from rag_infer.generate.loss import loss, scored_answers
from rag_infer.generate.model import Pieces, load_model
from rag_infer.generate.rag_sequence import Weighing
from rag_infer.generate.rag_token import Request, decode, new_search
from rag_infer.generate.search import Finished, Stop
from rag_infer.generate.stop import stop_condition
from rag_infer.generate.vision import Images, Seen, see_images, see_pixels
from rag_infer.parts import GeneratorVision
from rag_infer.session import Cancellation, check_threads
from rag_infer.text import Tokenizer

Float = NDArray[np.float32]
# A passage of 200 tokens takes 9 MiB with SmolLM2-135M.
PASSAGE_CACHE_MB = 256
# A question's slots for generated tokens, at the least; those that no token is in yet cost little.
RESERVED_SLOTS = 48


@dataclass(frozen=True)
class GeneratorOutput:
    """Sequences for a batch of questions.

    Attributes:
        sequences: int64 ``[questions * num_return_sequences, tokens]``, padded with the pad id. An encoder-decoder's
            begin with the start token. A decoder-only generator's hold the generated tokens alone: the prompts
            differ from passage to passage.
        scores: float32 ``[questions * num_return_sequences]``; minus infinity for a row no sequence was found for.
            RAG-Token: as transformers' sequences_scores (log-probability over length ** length_penalty for beam
            search). RAG-Sequence: log p(y|x).
        doc_posterior: RAG-Token: float32 ``[questions * num_return_sequences, tokens, n_docs]``, p(z_t | x, y_<=t);
            the prior where a row is padding or the start token. RAG-Sequence: p(z | x, y), float32
            ``[questions * num_return_sequences, n_docs]``; the prior for a row no sequence was found for.
    """

    sequences: NDArray[np.int64]
    scores: Float
    doc_posterior: Float


class Generator:
    """A generator of a bundle. Safe to share between threads.

    Attributes:
        device: where it runs.
        defaults: the bundle's generation settings.
        tokenizer: text to token ids and back.
        composer: (question, passage) to contexts.
        vision: how it sees and which images it must be given, or None for a generator of text alone.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        threads: int | None = None,
        passage_cache_mb: int = PASSAGE_CACHE_MB,
    ) -> None:
        part = bundle.manifest.generator
        if part is None:
            raise BundleError(f"the bundle {bundle.folder} has no generator")
        self._part = part
        self.device = device
        self._model = load_model(
            bundle,
            device=device,
            threads=check_threads(threads),
            passage_cache_mb=_checked_size(passage_cache_mb),
        )
        seeing = self._model.vision
        self.vision: GeneratorVision | None = None if seeing is None else seeing.part
        self.tokenizer = Tokenizer(bundle.file(part, "tokenizer.json"))
        self.composer: Composer = new_composer(bundle, self.tokenizer)
        try:
            self.defaults = GenerationConfig().updated(bundle.manifest.generation)
        except (TypeError, ValueError) as error:
            raise BundleError(f"{bundle.folder}: generation: {error}") from None

    @classmethod
    def from_pretrained(
        cls,
        bundle: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        passage_cache_mb: int = PASSAGE_CACHE_MB,
    ) -> Generator:
        """Load the generator of a bundle.

        Args:
            bundle: the bundle's folder.
            device: "cpu", "cuda" or "cuda:N".
            threads: default: the processors this process may run on.
            passage_cache_mb: MiB of keys and values of passages that a decoder-only generator keeps: it does not
                read a passage again while it is among those used last. 0 keeps none.

        Raises:
            BundleError: the bundle is not whole, or has no generator.
            DeviceError: the device is not to be had, or int8 does not run on it.
        """
        return cls(Bundle.load(bundle), device=device, threads=threads, passage_cache_mb=passage_cache_mb)

    def begin(
        self,
        contexts: Sequence[Sequence[Context]],
        priors: Sequence[Float],
        config: GenerationConfig,
        *,
        images: Images | None = None,
        cancellation: Cancellation | None = None,
    ) -> Generation:
        """Read the prompts of a batch and be ready to generate.

        Args:
            contexts: per question one context per passage, from `composer`.
            priors: per question log p(z|x), float32 ``[n_docs]``.
            config: settings.
            images: for a generator that sees (`vision`), per question and passage the images of ``vision.sources``,
                uint8 ``[height, width, 3]`` as `rag_infer.images.read_image` gives them, or None for one that is not
                there: its places are not looked at. Equal images are looked at once.
            cancellation: stops a run in progress.

        Raises:
            TypeError, ValueError: images that do not fit, that are missing, or that the generator does not see.
            ImageError: an image that cannot be brought to the generator's size.
        """
        if not contexts or not all(contexts):
            raise ValueError("there must be at least one question, and a context for each")
        rows = [c for question in contexts for c in question]
        pieces = [list(piece) for piece in zip(*rows, strict=True)]
        counts = [len(question) for question in contexts]
        seen = see_images(self._model.vision, images, counts, cancellation=cancellation)
        return self._begin(self.composer.preamble_ids, pieces, priors, config, cancellation, seen)

    def generate_from_contexts(
        self,
        context_input_ids: NDArray[np.int64] | None,
        context_attention_mask: NDArray[np.int64] | None,
        doc_scores: Float,
        *,
        pixel_values: Float | None = None,
        config: GenerationConfig | None = None,
    ) -> GeneratorOutput:
        """Generate from contexts that are already tokenised.

        Args:
            context_input_ids: int64 ``[questions * n_docs, tokens]``, question-major, right-padded. For an
                encoder-decoder passage and question as its composing rule says, for a decoder-only generator the
                whole prompt. None, as is the mask, where the generator reads no text.
            context_attention_mask: int64, same shape, 1 where a token counts.
            doc_scores: float32 ``[questions, n_docs]``, retrieval scores as they go into the softmax (as in
                transformers; a bundle's ``score_scale`` belongs to its retrieval and is not applied here), minus
                infinity for weight zero.
            pixel_values: for a generator that sees, float32 ``[questions * n_docs, images, 3, height, width]``:
                prepared images of the sources of ``vision.sources``.
            config: settings, default the bundle's.

        Raises:
            TypeError: an array of another dtype.
            ValueError: shapes that do not fit, a context without tokens, a NaN score, a token id outside the
                vocabulary.
        """
        config = config or self.defaults
        rows = given_rows(context_input_ids, context_attention_mask, doc_scores, self._part)
        seen = see_pixels(self._model.vision, pixel_values, len(rows))
        priors = list(marginalise.log_priors(doc_scores))
        generation = self._begin((), [rows], priors, config, None, seen)
        return self._collect(generation.results(), np.exp(np.stack(priors)), config)

    def score(
        self,
        context_input_ids: NDArray[np.int64] | None,
        context_attention_mask: NDArray[np.int64] | None,
        doc_scores: Float,
        labels: NDArray[np.int64],
        *,
        pixel_values: Float | None = None,
        strategy: str = "rag-token",
        epsilon: float = 0.0,
        reduce_loss: bool = False,
        exclude_bos_score: bool = False,
        compat: str | None = None,
    ) -> Float:
        """Negative log-likelihood of given answers, -log p(y|x), summed over their tokens.

        Args:
            context_input_ids, context_attention_mask, doc_scores, pixel_values: as for `generate_from_contexts`.
            labels: int64 ``[questions, tokens]``, the answers, right-padded with -100 (not scored). For an
                encoder-decoder as transformers takes them: the first token stands for the start token and is not
                scored, and the pad id is not scored anywhere.
            strategy: "rag-token", or "rag-sequence": -log sum_z p(z|x) prod_t p(y_t | x, z, y_<t).
            epsilon: label smoothing, 0 to 1: the share of all tokens alike.
            reduce_loss: whether the losses are summed.
            exclude_bos_score: under "rag-sequence", whether a begin-of-text token that every answer begins with
                (after the start token) is left out.
            compat: as in `GenerationConfig`.

        Returns:
            float32 ``[questions]``, natural logarithm; with ``reduce_loss`` float32 ``[]``.

        Raises:
            TypeError: an array of another dtype.
            ValueError: shapes that do not fit, a label outside the vocabulary, an unknown strategy or compat.
        """
        if strategy not in ("rag-token", "rag-sequence"):
            raise ValueError(f"unknown strategy {strategy!r}: expected 'rag-token' or 'rag-sequence'")
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")
        GenerationConfig(compat=compat)  # refuses an unknown one
        vocab_size = self._part.vocab_size
        rows = given_rows(context_input_ids, context_attention_mask, doc_scores, self._part)
        seen = see_pixels(self._model.vision, pixel_values, len(rows))
        targets = check_labels(labels, questions=len(doc_scores), vocab_size=vocab_size)
        priors = marginalise.log_priors(doc_scores)
        answers = scored_answers(
            targets,
            self._model.begun,
            self._part,
            exclude_bos=exclude_bos_score and strategy == "rag-sequence",
            compat=compat,
        )
        n_docs = doc_scores.shape[1]
        losses = []
        for i, (begun, answer) in enumerate(answers):
            own = slice(i * n_docs, (i + 1) * n_docs)
            scorer = self._model.scorer(rows[own], begun, seen=None if seen is None else seen.of_rows(own))
            losses.append(loss(scorer, priors[i], answer, strategy, epsilon=epsilon, vocab_size=vocab_size))
        result = np.array(losses, dtype=np.float32)
        return np.array(result.sum(dtype=np.float64), dtype=np.float32) if reduce_loss else result

    def _begin(
        self,
        preamble: Sequence[int],
        pieces: Pieces,
        priors: Sequence[Float],
        config: GenerationConfig,
        cancellation: Cancellation | None,
        seen: Seen | None = None,
    ) -> Generation:
        model, eos = self._model, self._part.eos_token_ids
        config = config.with_length(len(model.begun), model.max_positions)
        constraints = processors(
            config, eos_token_ids=eos, vocab_size=self._part.vocab_size, begun=len(model.begun)
        )
        stop: Stop = stop_condition(self.tokenizer, eos, config.stop_strings)
        # Room for the first tokens of all beams; longer answers grow the cache, which copies it.
        beams = max(config.num_beams, config.num_return_sequences)
        reserve = min(beams * config.max_tokens, max(16 * beams, RESERVED_SLOTS))
        counts = [len(p) for p in priors]
        per_passage = config.strategy != "rag-token"
        searched = config.updated({"num_return_sequences": config.num_beams}) if per_passage else config
        # Under RAG-Sequence every passage is searched as if it were the only one.
        alone = [np.zeros(1, dtype=np.float32)] * sum(counts)
        requests = [
            Request(p, new_search(searched, stop, num_eos=len(eos)))
            for p in (alone if per_passage else priors)
        ]
        state, logits, scorer = model.start(
            preamble,
            pieces,
            [1] * sum(counts) if per_passage else counts,
            seen=seen,
            reserve=reserve,
            cancellation=cancellation,
        )
        steps = decode(
            model.decoder,
            model.head,
            state,
            logits,
            requests,
            constraints,
            begun=model.begun,
            per_passage=per_passage and config.num_beams == 1,
            cancellation=cancellation,
        )
        if not per_passage:
            return Generation(requests, steps)
        ends = np.cumsum(counts)
        weighings = [
            Weighing(
                scorer=scorer,
                rows=slice(end - len(prior), end),
                priors=prior,
                pad_token_id=self._part.pad_token_id,
                eos_token_ids=eos,
                fill_token_id=self._fill_token(config),
                bos_token_id=self._part.bos_token_id if model.begun else None,
                config=config,
            )
            for prior, end in zip(priors, ends.tolist(), strict=True)
        ]
        return Generation(requests, steps, weighings)

    def _fill_token(self, config: GenerationConfig) -> int:
        """What stands behind shorter sequences: the pad id; in transformers' beam search not if it is 0."""
        pad, eos = self._part.pad_token_id, self._part.eos_token_ids
        return pad if pad != 0 or config.compat is None or config.num_beams == 1 else eos[0]

    def _collect(
        self, found: list[list[Finished]], priors: Float, config: GenerationConfig
    ) -> GeneratorOutput:
        begun, count = self._model.begun, config.num_return_sequences
        tokens = len(begun) + max(len(f.hypothesis.tokens) for results in found for f in results)
        rows = len(found) * count
        sequences = np.full((rows, tokens), self._fill_token(config), dtype=np.int64)
        scores = np.full(rows, -np.inf, dtype=np.float32)
        posterior = np.repeat(priors.astype(np.float32), count, axis=0)[:, None, :].repeat(tokens, axis=1)
        whole = np.repeat(priors.astype(np.float32), count, axis=0)
        for i, results in enumerate(found):
            for j, finished in enumerate(results[:count]):
                chain = finished.hypothesis.chain()
                row = i * count + j
                end = len(begun) + len(chain)
                sequences[row, :end] = [*begun, *(h.token for h in chain)]
                scores[row] = finished.ranked_score
                posterior[row, len(begun) : end] = [h.posterior for h in chain]
                whole[row] = chain[-1].posterior
        return GeneratorOutput(sequences, scores, posterior if config.strategy == "rag-token" else whole)


def _checked_size(passage_cache_mb: int) -> int:
    if isinstance(passage_cache_mb, bool) or not isinstance(passage_cache_mb, int):
        raise TypeError(f"passage_cache_mb must be a whole number, got {passage_cache_mb!r}")
    if passage_cache_mb < 0:
        raise ValueError(f"passage_cache_mb must be at least 0, got {passage_cache_mb}")
    return passage_cache_mb
