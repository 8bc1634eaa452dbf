"""The candidates for the next token of every beam of one question, marginalised and constrained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rag_infer.generate.constraints import Processor, touched_tokens
from rag_infer.generate.head import Marginals

# With more tokens than this under constraints, all are looked at.
MANY_TOUCHED = 256


class NextTokens:
    """One step's next-token distribution under RAG-Token.

    Args:
        marginals: the distribution before constraints.
        sequences: the tokens of each beam so far.
        processors: constraints, applied after marginalising.
        per_passage: whether the one passage is searched alone and greedily, or by drawing; constraints then act on
            logits, as in transformers.
    """

    def __init__(
        self,
        marginals: Marginals,
        sequences: Sequence[Sequence[int]],
        processors: Sequence[Processor],
        *,
        per_passage: bool = False,
    ) -> None:
        self._marginals = marginals
        self._sequences = sequences
        self._processors = processors
        self._per_passage = per_passage

    def scores(self) -> NDArray[np.float32]:
        """Log-probabilities of all tokens, or logits, after the constraints: float32 ``[beams, vocab]``."""
        scores = self._marginals.logits() if self._per_passage else self._marginals.scores()
        for row, tokens in zip(scores, self._sequences, strict=True):
            for process in self._processors:
                process.apply(row, tokens)
        return scores

    def best(self, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k best tokens of each beam: (scores float32, tokens int64), both ``[beams, k]``."""
        k = min(k, self._marginals.vocab_size)
        touched = [touched_tokens(self._processors, tokens) for tokens in self._sequences]
        few = [t for t in touched if t is not None and len(t) <= MANY_TOUCHED]
        # Scores of a passage alone are logits where there is a constraint, whether it has anything to say or not.
        if len(few) < len(touched) or (self._per_passage and self._processors):
            return _largest(self.scores(), k)
        if not any(few):
            return self._marginals.top(k)
        return self._best_of_few(k, few)

    def _best_of_few(
        self, k: int, touched: Sequence[set[int]]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """As `best`: the k best that no constraint touches are among the k + touched best of all."""
        beams, vocab = len(touched), self._marginals.vocab_size
        more = max(map(len, touched))
        free, tokens = self._marginals.top(min(k + more, vocab))
        # Each beam has tokens of its own; one that is named twice has the same score twice.
        named = [sorted(t) or [0] for t in touched]
        asked = np.array([(t * more)[:more] for t in named], dtype=np.int64)
        known, _ = self._marginals.of(asked)
        scores = np.full((beams, k), -np.inf, dtype=np.float32)
        best = np.zeros((beams, k), dtype=np.int64)
        row = np.full(vocab, -np.inf, dtype=np.float32)
        for beam, sequence in enumerate(self._sequences):
            found = tokens[beam] >= 0
            looked_at = np.union1d(tokens[beam][found], asked[beam])
            row[tokens[beam][found]] = free[beam][found]
            row[asked[beam]] = known[beam]
            for process in self._processors:
                process.apply(row, sequence)
            values = row[looked_at]
            order = np.argsort(-values, kind="stable")[:k]
            scores[beam, : len(order)], best[beam, : len(order)] = values[order], looked_at[order]
            row[looked_at] = -np.inf
        return scores, best

    def detail(self, tokens: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of chosen tokens ``[beams, m]``: unconstrained log p ``[beams, m]`` and posterior ``[beams, m, n_docs]``."""
        return self._marginals.of(tokens)


def _largest(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k largest of each row and their places; of equal ones the lower first."""
    values, places = np.empty((len(scores), k), dtype=np.float32), np.empty((len(scores), k), dtype=np.int64)
    for i, row in enumerate(scores):
        least = -np.partition(-row, k - 1)[k - 1]
        kept = np.flatnonzero(row >= least)
        places[i] = kept[np.argsort(-row[kept], kind="stable")[:k]]
        values[i] = row[places[i]]
    return values, places
