"""The next-token distributions of a step, one a question: over logits in memory, by the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rag_infer import marginalise

Float = NDArray[np.float32]
Int = NDArray[np.int64]


class Marginals(Protocol):
    """One question's next-token distribution under RAG-Token, for each of its beams."""

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        ...

    def logits(self) -> Float:
        """The first passage's logits, float32 ``[beams, vocab]``; to be changed at will."""
        ...

    def scores(self) -> Float:
        """Log-probabilities of all tokens, float32 ``[beams, vocab]``; to be changed at will."""
        ...

    def top(self, k: int) -> tuple[Float, Int]:
        """The k best tokens, as `rag_infer.marginalise.top_tokens`."""
        ...

    def of(self, tokens: Int) -> tuple[Float, Float]:
        """Log-probabilities and posteriors of tokens, as `rag_infer.marginalise.token_posterior`."""
        ...


class Head(Protocol):
    """Turns a step's logits into distributions."""

    def questions(self, logits: Any, priors: Sequence[Float], beams: Sequence[int]) -> Sequence[Marginals]:
        """The distributions of a batch.

        Args:
            logits: ``[rows, beams, vocab]``, on the head's device.
            priors: per question log p(z|x), float32 ``[n_docs]``; rows are the questions' passages, in order.
            beams: how many beams of each question count.
        """
        ...


class KernelMarginals:
    """Over logits in memory.

    Args:
        logits: float32 ``[n_docs, beams, vocab]``.
        priors: float32 ``[n_docs]``, log p(z|x).
        threads: threads of the kernels.
    """

    def __init__(self, logits: Float, priors: Float, *, threads: int = 1) -> None:
        self._logits = logits
        self._priors = priors
        self._threads = threads

    @property
    def vocab_size(self) -> int:
        """See `Marginals`."""
        return int(self._logits.shape[2])

    def logits(self) -> Float:
        """See `Marginals`."""
        copy: Float = self._logits[0].copy()
        return copy

    def scores(self) -> Float:
        """See `Marginals`."""
        return marginalise.log_probs(self._logits, self._priors, threads=self._threads)

    def top(self, k: int) -> tuple[Float, Int]:
        """See `Marginals`."""
        return marginalise.top_tokens(self._logits, self._priors, k, threads=self._threads)

    def of(self, tokens: Int) -> tuple[Float, Float]:
        """See `Marginals`."""
        return marginalise.token_posterior(self._logits, self._priors, tokens, threads=self._threads)


class KernelHead:
    """Logits in memory, marginalised by the kernel.

    Args:
        threads: threads of the kernels.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads

    def questions(
        self, logits: Float, priors: Sequence[Float], beams: Sequence[int]
    ) -> list[KernelMarginals]:
        """See `Head`."""
        ends = np.cumsum([len(p) for p in priors])
        return [
            KernelMarginals(
                np.ascontiguousarray(logits[end - len(p) : end, :count]), p, threads=self._threads
            )
            for p, count, end in zip(priors, beams, ends.tolist(), strict=True)
        ]
