"""A batch of questions in progress, and its results."""

from __future__ import annotations

from collections.abc import Iterator

from rag_infer.errors import GenerationError
from rag_infer.generate.rag_sequence import Weighing, fast, thorough
from rag_infer.generate.rag_token import Request
from rag_infer.generate.search import Finished


class Generation:
    """A batch of questions in progress: iterate to advance all by a token; `results` when exhausted.

    Args:
        requests: the searches: one per question, or one per passage where ``weighings`` are given.
        steps: advances them.
        weighings: under RAG-Sequence per question how its candidates are weighed.
    """

    def __init__(
        self, requests: list[Request], steps: Iterator[None], weighings: list[Weighing] | None = None
    ) -> None:
        self._steps = steps
        self._weighings = weighings
        self.requests = requests

    @property
    def decides_tokens(self) -> bool:
        """Whether tokens are decided as they come: under RAG-Sequence only the end tells which answer is best."""
        return self._weighings is None

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
        if self._weighings is not None:
            found = [self._weigh(found[w.rows], w) for w in self._weighings]
        for i, results in enumerate(found):
            if not results:
                raise GenerationError(f"question {i}: the constraints leave no possible next token")
        return found

    @staticmethod
    def _weigh(found: list[list[Finished]], weighing: Weighing) -> list[Finished]:
        return (fast if weighing.config.strategy == "rag-sequence-fast" else thorough)(found, weighing)
