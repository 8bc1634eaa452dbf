"""A sequence as it grows: a chain of tokens that shares its beginning with its siblings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Hypothesis:
    """A token and the chain before it.

    Attributes:
        parent: the chain before, None at the first token.
        token: its id.
        log_prob: log p(y_t | x, y_<t), marginal over passages, before any constraint.
        posterior: p(z_t | x, y_<=t), float32 ``[n_docs]``.
        score: sum of the constrained log-probabilities up to here; what beam search ranks by.
    """

    parent: Hypothesis | None
    token: int
    log_prob: float
    posterior: NDArray[np.float32]
    score: float

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        """All token ids, first to last."""
        return (*self.parent.tokens, self.token) if self.parent is not None else (self.token,)

    def chain(self) -> list[Hypothesis]:
        """The links of the chain, first to last."""
        links: list[Hypothesis] = []
        link: Hypothesis | None = self
        while link is not None:
            links.append(link)
            link = link.parent
        return links[::-1]
