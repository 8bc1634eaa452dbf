"""Beam search with the bookkeeping of transformers 4.57, so that the same scores give the same sequences."""

from __future__ import annotations

import numpy as np

from rag_infer.generate.candidates import NextTokens
from rag_infer.generate.config import GenerationConfig
from rag_infer.generate.hypothesis import Hypothesis
from rag_infer.generate.search import Finished, Stop, common_prefix

# What transformers gives the beams that are not to be extended at first. Where constraints leave fewer tokens than
# beams, sequences of this score are among its results.
FAR_BEHIND = -1e9


class BeamSearch:
    """Beam search for one question.

    Each step keeps the best ``max(2, 1 + num_eos) * num_beams`` continuations. Those that are complete may enter
    the results only from among the first ``num_beams``; the best incomplete ones run on.

    Args:
        config: num_beams, length_penalty, early_stopping, max_tokens, num_return_sequences.
        stop: tells whether a sequence is complete.
        num_eos: number of end-of-text tokens.
    """

    def __init__(self, config: GenerationConfig, stop: Stop, *, num_eos: int) -> None:
        self._config = config
        self._stop = stop
        self._keep = max(2, 1 + num_eos) * config.num_beams
        self._length = 0
        self._finished: list[Finished] = []
        self._improvable = True
        self.running: list[Hypothesis] = []
        self.done = False

    def advance(self, step: NextTokens) -> list[int]:
        """Extend the running sequences by a token; see `Search.advance`."""
        kept = self._best_continuations(step)
        self._length += 1
        at_limit = self._length >= self._config.max_tokens
        complete = [at_limit or self._stop(h.tokens) for _, h in kept]
        self._collect([h for (_, h), c in zip(kept[: self._config.num_beams], complete, strict=False) if c])
        going = [pair for pair, c in zip(kept, complete, strict=True) if not c][: self._config.num_beams]
        self.running = [h for _, h in going]
        self._improvable = self._improvable and self._can_improve()
        full = len(self._finished) == self._config.num_beams
        self.done = not self.running or not self._improvable or (full and self._config.early_stopping is True)
        return [parent for parent, _ in going]

    def results(self) -> list[Finished]:
        """The best ``num_return_sequences`` complete sequences."""
        return self._finished[: self._config.num_return_sequences]

    def decided(self) -> list[Hypothesis]:
        """What all running and finished sequences begin with; at the end, the best sequence."""
        if self.done:
            return self._finished[0].hypothesis.chain() if self._finished else []
        return common_prefix([*self.running, *(f.hypothesis for f in self._finished)])

    def _best_continuations(self, step: NextTokens) -> list[tuple[int, Hypothesis]]:
        """(index of the parent, new hypothesis), best first; impossible ones (minus infinity) left out."""
        scores, tokens = step.best(self._keep)
        before = np.array([h.score for h in self.running] or self._first_scores(), dtype=np.float32)
        totals = before[:, None] + scores
        log_probs, posteriors = step.detail(np.where(tokens < 0, 0, tokens))
        order = np.argsort(-totals, axis=None, kind="stable")[: self._keep]
        found = []
        for beam, rank in zip(*np.unravel_index(order, totals.shape), strict=True):
            if np.isneginf(totals[beam, rank]):
                break
            row = beam if self.running else 0
            hypothesis = Hypothesis(
                parent=self.running[beam] if self.running else None,
                token=int(tokens[row, rank]),
                log_prob=float(log_probs[row, rank]),
                posterior=posteriors[row, rank],
                score=float(totals[beam, rank]),
            )
            found.append((int(row), hypothesis))
        return found

    def _first_scores(self) -> list[float]:
        """The first step has one sequence to extend; transformers has all beams equal, all but one far behind."""
        far_behind = [] if self._config.compat is None else [FAR_BEHIND] * (self._config.num_beams - 1)
        return [0.0, *far_behind]

    def _collect(self, complete: list[Hypothesis]) -> None:
        """Let complete sequences into the results, of which the best ``num_beams`` stay."""
        full = len(self._finished) == self._config.num_beams
        if not self._improvable or (full and self._config.early_stopping is True):
            return
        scale = self._length**self._config.length_penalty
        merged = self._finished + [Finished(h, h.score / scale) for h in complete]
        self._finished = sorted(merged, key=lambda f: -f.ranked_score)[: self._config.num_beams]

    def _can_improve(self) -> bool:
        """Whether the best running sequence could still beat the worst finished one."""
        if len(self._finished) < self._config.num_beams:
            return True
        if not self.running:
            return False
        longest = self._config.early_stopping == "never" and self._config.length_penalty > 0
        length = self._config.max_tokens if longest else self._length
        best: float = self.running[0].score / length**self._config.length_penalty
        return best > self._finished[-1].ranked_score
