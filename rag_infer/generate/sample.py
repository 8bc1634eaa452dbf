"""Greedy search and sampling: sequences that do not compete with each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rag_infer.generate.candidates import NextTokens
from rag_infer.generate.config import GenerationConfig
from rag_infer.generate.hypothesis import Hypothesis
from rag_infer.generate.search import Finished, Stop, common_prefix


class IndependentSearch:
    """Each of ``num_return_sequences`` sequences takes its best token, or draws one when sampling.

    Args:
        config: do_sample, temperature, top_k, top_p, num_return_sequences, max_tokens.
        stop: tells whether a sequence is complete.
        random: source of randomness for sampling.
    """

    def __init__(self, config: GenerationConfig, stop: Stop, *, random: np.random.Generator) -> None:
        self._config = config
        self._stop = stop
        self._random = random
        self._length = 0
        self._finished: list[Finished] = []
        self.running: list[Hypothesis] = []
        self.done = False

    def advance(self, step: NextTokens) -> list[int]:
        """Extend every running sequence by a token; see `Search.advance`."""
        # The first step has one distribution, from which all sequences take their first token.
        count = self._config.num_return_sequences if not self.running else 1
        tokens, scores = self._choose(step, count)
        log_probs, posteriors = step.detail(tokens)
        self._length += 1
        parents, running = [], []
        for beam, rank in np.ndindex(*tokens.shape):
            if np.isneginf(scores[beam, rank]):
                continue
            parent = self.running[beam] if self.running else None
            hypothesis = Hypothesis(
                parent=parent,
                token=int(tokens[beam, rank]),
                log_prob=float(log_probs[beam, rank]),
                posterior=posteriors[beam, rank],
                score=(parent.score if parent is not None else 0.0) + float(scores[beam, rank]),
            )
            if self._length >= self._config.max_tokens or self._stop(hypothesis.tokens):
                self._finished.append(Finished(hypothesis, hypothesis.score))
            else:
                parents.append(beam)
                running.append(hypothesis)
        self.running = running
        self.done = not running
        return parents

    def results(self) -> list[Finished]:
        """Complete sequences; samples best first."""
        return sorted(self._finished, key=lambda f: -f.ranked_score)

    def decided(self) -> list[Hypothesis]:
        """A single sequence is decided as it grows; of several, what they share, and the best at the end."""
        if self.done:
            return self.results()[0].hypothesis.chain() if self._finished else []
        return common_prefix([*self.running, *(f.hypothesis for f in self._finished)])

    def _choose(self, step: NextTokens, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        if not self._config.do_sample:
            scores, tokens = step.best(1)
            return np.where(tokens < 0, 0, tokens), scores
        scores = step.scores()
        drawn = np.stack([self._draw(row, count) for row in scores])
        return drawn, np.take_along_axis(scores, drawn, axis=1)

    def _draw(self, scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        probabilities = sampling_distribution(
            scores, temperature=self._config.temperature, top_k=self._config.top_k, top_p=self._config.top_p
        )
        return self._random.choice(len(probabilities), size=count, p=probabilities).astype(np.int64)


def sampling_distribution(
    scores: NDArray[np.float32], *, temperature: float, top_k: int, top_p: float
) -> NDArray[np.float64]:
    """The distribution that sampling draws from, warped in transformers' order: temperature, top-k, top-p.

    Args:
        scores: log-probabilities float32 ``[vocab]``; minus infinity stays impossible.
        temperature: scores are divided by it.
        top_k: only this many best tokens stay; 0 keeps all.
        top_p: only the best tokens whose probabilities reach this sum stay (Holtzman et al. 2020), at least one.

    Returns:
        float64 ``[vocab]``, summing to one; all zero scores of minus infinity give the uniform distribution.

    >>> sampling_distribution(np.log(np.float32([0.5, 0.3, 0.2])), temperature=1.0, top_k=0, top_p=0.6).round(3)
    array([0.625, 0.375, 0.   ])
    """
    warped = scores.astype(np.float64) / temperature
    order = np.argsort(-warped, kind="stable")
    keep = len(order) if top_k == 0 else min(top_k, len(order))
    # transformers keeps everything that ties with the k-th.
    warped[warped < warped[order[keep - 1]]] = -np.inf
    top = warped[order[0]]
    if np.isneginf(top):
        return np.full(len(warped), 1.0 / len(warped))
    probabilities: NDArray[np.float64] = np.exp(warped - top)
    probabilities /= probabilities.sum()
    if top_p < 1.0:
        before = np.cumsum(probabilities[order]) - probabilities[order]
        probabilities[order[before >= top_p]] = 0.0
        probabilities /= probabilities.sum()
    return probabilities
