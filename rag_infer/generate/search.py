"""What all searches over sequences have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from rag_infer.generate.candidates import NextTokens
from rag_infer.generate.hypothesis import Hypothesis

# Whether a sequence of tokens is complete (end of text, a stop string; not the length).
Stop = Callable[[Sequence[int]], bool]


class Finished(NamedTuple):
    """A complete sequence and the score it is ranked by."""

    hypothesis: Hypothesis
    ranked_score: float


class Search(Protocol):
    """The search for one question's answer. Feed `advance` until `done`."""

    running: list[Hypothesis]
    """The sequences to extend next."""

    done: bool

    def advance(self, step: NextTokens) -> list[int]:
        """Extend the running sequences; returns for each new one the index of the one it extends."""
        ...

    def results(self) -> list[Finished]:
        """Complete sequences, best first."""
        ...

    def decided(self) -> list[Hypothesis]:
        """The tokens that every possible answer begins with."""
        ...


def common_prefix(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    """The links that all chains share at their beginning."""
    if not hypotheses:
        return []
    chains = [h.chain() for h in hypotheses]
    shared: list[Hypothesis] = []
    for links in zip(*chains, strict=False):
        if any(link.token != links[0].token for link in links):
            break
        shared.append(links[0])
    return shared
