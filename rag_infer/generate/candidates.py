"""The candidates for the next token of every beam of one question, marginalised and constrained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rag_infer import marginalise
from rag_infer.generate.constraints import Processor


class NextTokens:
    """One step's next-token distribution under RAG-Token.

    Args:
        logits: float32 ``[n_docs, beams, vocab]``.
        priors: float32 ``[n_docs]``, log p(z|x).
        sequences: the tokens of each beam so far.
        processors: constraints, applied after marginalising.
        per_passage: whether the one passage is searched alone and greedily, or by drawing; constraints then act on
            logits, as in transformers.
        threads: threads of the kernels.
    """

    def __init__(
        self,
        logits: NDArray[np.float32],
        priors: NDArray[np.float32],
        sequences: Sequence[Sequence[int]],
        processors: Sequence[Processor],
        *,
        per_passage: bool = False,
        threads: int = 1,
    ) -> None:
        self._logits = logits
        self._priors = priors
        self._sequences = sequences
        self._processors = processors
        self._per_passage = per_passage
        self._threads = threads

    def scores(self) -> NDArray[np.float32]:
        """Log-probabilities of all tokens, or logits, after the constraints: float32 ``[beams, vocab]``."""
        if self._per_passage:
            scores: NDArray[np.float32] = self._logits[0].copy()
        else:
            scores = marginalise.log_probs(self._logits, self._priors, threads=self._threads)
        for row, tokens in zip(scores, self._sequences, strict=True):
            for process in self._processors:
                process(row, tokens)
        return scores

    def best(self, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k best tokens of each beam: (scores float32, tokens int64), both ``[beams, k]``."""
        k = min(k, self._logits.shape[2])
        if not self._processors:
            return marginalise.top_tokens(self._logits, self._priors, k, threads=self._threads)
        scores = self.scores()
        # A stable sort of the few that argpartition leaves: equal scores come in the order of their tokens.
        kept = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
        values = np.take_along_axis(scores, kept, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        return np.take_along_axis(values, order, axis=1), np.take_along_axis(kept, order, axis=1)

    def detail(self, tokens: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of chosen tokens ``[beams, m]``: unconstrained log p ``[beams, m]`` and posterior ``[beams, m, n_docs]``."""
        return marginalise.token_posterior(self._logits, self._priors, tokens, threads=self._threads)
