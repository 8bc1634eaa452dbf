"""The next-token distributions of a step whose logits stay on the device: only what is asked for comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer import marginalise
from rag_infer.errors import GenerationError
from rag_infer.session import Session

Float = NDArray[np.float32]
Int = NDArray[np.int64]

# More are fetched than were asked for, so that questions that ask for a few more share one run.
SPARE = 8


class GraphHead:
    """Marginalises by ``head.onnx`` (`rag_infer.export.device_graphs`).

    Args:
        session: its session.
        vocab_size: width of the logits.
    """

    def __init__(self, session: Session, vocab_size: int) -> None:
        self._session = session
        self._vocab_size = vocab_size

    def questions(self, logits: Any, priors: Sequence[Float], beams: Sequence[int]) -> list[GraphMarginals]:
        """See `rag_infer.generate.head.Head`."""
        step = Step(self._session, logits, priors, self._vocab_size)
        return [GraphMarginals(step, i, count) for i, count in enumerate(beams)]


class Step:
    """One step of a batch: runs the graph once for its best tokens, and once more for each question's asked ones.

    Args:
        session: the session of ``head.onnx``.
        logits: float32 ``[rows, beams, vocab]``, on the device or not.
        priors: per question log p(z|x).
        vocab_size: width of the logits.
    """

    def __init__(self, session: Session, logits: Any, priors: Sequence[Float], vocab_size: int) -> None:
        counts = [len(p) for p in priors]
        self.rows = np.zeros((len(counts), max(counts)), dtype=np.int64)
        self.priors = np.full((len(counts), max(counts)), -np.inf, dtype=np.float32)
        start = 0
        for i, prior in enumerate(priors):
            self.rows[i, : counts[i]] = np.arange(start, start + counts[i])
            self.priors[i, : counts[i]] = prior
            start += counts[i]
        self.counts = counts
        self.vocab_size = vocab_size
        self.beams = int(logits.shape[1] if isinstance(logits, np.ndarray) else logits.shape()[1])
        self._session = session
        self._logits = logits if not isinstance(logits, np.ndarray) else session.to_device(logits)
        self._top: dict[str, NDArray[Any]] = {}
        self._all: NDArray[np.float32] | None = None
        self._here: NDArray[np.float32] | None = None

    def top(self, k: int) -> dict[str, NDArray[Any]]:
        """At least the k best tokens of all questions: ``top_scores``, ``top_tokens``, ``top_by_doc``."""
        if not self._top or self._top["top_scores"].shape[2] < min(k, self.vocab_size):
            self._top = self._run(["top_scores", "top_tokens", "top_by_doc"], k=k + SPARE)
        return self._top

    def known(self) -> dict[str, NDArray[Any]]:
        """What `top` gave last."""
        return self._top

    def asked(self, question: int, tokens: Int) -> tuple[Float, Float]:
        """Log-probabilities ``[beams, m]`` and log p(token | passage) ``[docs, beams, m]`` of a question's tokens."""
        asked = np.zeros((len(self.counts), self.beams, tokens.shape[1]), dtype=np.int64)
        asked[question, : len(tokens)] = tokens
        found = self._run(["asked_scores", "asked_by_doc"], tokens=asked)
        beams = slice(0, len(tokens))
        return found["asked_scores"][question, beams], found["asked_by_doc"][question][:, beams]

    def scores(self) -> Float:
        """Log-probabilities of all tokens: ``[questions, beams, vocab]``."""
        if self._all is None:
            self._all = self._run(["scores"])["scores"]
        return self._all

    def logits(self, row: int) -> Float:
        """The logits of a row, ``[beams, vocab]``."""
        if self._here is None:
            self._here = self._logits.numpy()
        logits: Float = self._here[row]
        return logits

    def _run(self, names: Sequence[str], *, k: int = 1, tokens: Int | None = None) -> dict[str, NDArray[Any]]:
        inputs = {
            "logits": self._logits,
            "rows_of_question": self.rows,
            "priors": self.priors,
            "k": np.array([min(k, self.vocab_size)], dtype=np.int64),
            "asked_tokens": np.zeros((len(self.counts), self.beams, 1), dtype=np.int64)
            if tokens is None
            else tokens,
        }
        found = self._session.run_on_device(inputs, fetched=names)
        for name in names:
            if np.isnan(found[name]).any():
                raise GenerationError(
                    "logits hold NaN or plus infinity: where the bundle is fp16, export it in fp32"
                )
        return found


class GraphMarginals:
    """One question of a `Step`; see `rag_infer.generate.head.Marginals`.

    Args:
        step: the batch's.
        question: its number there.
        beams: how many beams count.
    """

    def __init__(self, step: Step, question: int, beams: int) -> None:
        self._step = step
        self._question = question
        self._beams = beams
        self._docs = step.counts[question]

    @property
    def vocab_size(self) -> int:
        """See `Marginals`."""
        return self._step.vocab_size

    def logits(self) -> Float:
        """See `Marginals`."""
        return self._step.logits(int(self._step.rows[self._question, 0]))[: self._beams].copy()

    def scores(self) -> Float:
        """See `Marginals`."""
        return self._step.scores()[self._question, : self._beams].copy()

    def top(self, k: int) -> tuple[Float, Int]:
        """See `Marginals`."""
        found = self._step.top(k)
        scores: Float = found["top_scores"][self._question, : self._beams]
        tokens: Int = found["top_tokens"][self._question, : self._beams]
        # Of equal ones the lower first, which not every device's TopK sees to.
        order = np.lexsort((tokens, -scores), axis=1)[:, :k]
        scores = np.take_along_axis(scores, order, axis=1)
        return scores, np.where(np.isneginf(scores), -1, np.take_along_axis(tokens, order, axis=1))

    def of(self, tokens: Int) -> tuple[Float, Float]:
        """See `Marginals`; of the best tokens, what `top` gave is enough."""
        scores, by_doc = self._of_the_best(tokens) or self._step.asked(self._question, tokens)
        prior = self._step.priors[self._question, : self._docs]
        return scores, marginalise.posterior(by_doc[: self._docs], prior)

    def _of_the_best(self, tokens: Int) -> tuple[Float, Float] | None:
        found = self._step.known()
        if not found:
            return None
        known = found["top_tokens"][self._question, : len(tokens)]
        same = known[:, None, :] == tokens[:, :, None]  # [beams, m, k]
        if not same.any(axis=2).all():
            return None
        places = same.argmax(axis=2)
        scores = np.take_along_axis(found["top_scores"][self._question, : len(tokens)], places, axis=1)
        by_doc = np.take_along_axis(
            found["top_by_doc"][self._question][:, : len(tokens)], places[None], axis=2
        )
        return scores, by_doc
