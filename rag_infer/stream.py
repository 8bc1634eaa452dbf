"""An answer token by token, and stopping the work behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from rag_infer.answer import Answer, Token, settled
from rag_infer.errors import GenerationError
from rag_infer.generate.config import GenerationConfig
from rag_infer.generate.generation import Generation
from rag_infer.generate.hypothesis import Hypothesis
from rag_infer.session import Cancellation
from rag_infer.timing import Stopwatch

if TYPE_CHECKING:
    from rag_infer.knowledge import SearchResult


class StreamedRequest(Protocol):
    """A question whose passages are found; `rag_infer.engine` has it.

    Attributes:
        cancellation: stops its runs.
        config: its generation settings.
        watch: its timings.
        passages: per question, of which there is one, the retrieved passages.
    """

    cancellation: Cancellation
    config: GenerationConfig
    watch: Stopwatch
    passages: list[SearchResult]

    def begin(self) -> Generation:
        """Read the prompts."""
        ...

    def tokens(self, chain: Sequence[Hypothesis], *, final: bool = True) -> list[Token]:
        """A hypothesis as tokens with their text."""
        ...

    def finish(self, generation: Generation) -> list[Answer]:
        """The answers of a generation that has ended."""
        ...


class AnswerStream:
    """Iterates over an answer's tokens as each is decided; `answer` when exhausted.

    Under RAG-Sequence all are decided at the end.

    Closing it, from any thread or by leaving a ``with`` block, stops the work, a running step included.

    Attributes:
        passages: the retrieved passages, there before the first token.
        answer: the whole answer once the stream is exhausted, None before.
    """

    def __init__(self, request: StreamedRequest) -> None:
        self._request = request
        self._tokens = self._run()
        self.passages: SearchResult = request.passages[0]
        self.answer: Answer | None = None

    def __iter__(self) -> Iterator[Token]:
        return self

    def __next__(self) -> Token:
        if self._request.cancellation.cancelled:
            raise StopIteration
        try:
            return next(self._tokens)
        except GenerationError:
            if self._request.cancellation.cancelled:  # closed from another thread, while a step ran
                raise StopIteration from None
            raise

    def close(self) -> None:
        """Stop the work."""
        self._request.cancellation.cancel()

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> Iterator[Token]:
        generation = self._request.begin()
        search = generation.requests[0].search
        given = 0
        while self._advance(generation):
            if not generation.decides_tokens:
                continue
            decided = self._request.tokens(search.decided(), final=search.done)
            ready = len(decided)
            if not search.done:
                ready = settled([token.text for token in decided], self._request.config.stop_strings)
            yield from decided[given:ready]
            given = max(given, ready)
        answer = self._request.finish(generation)[0]
        if self._request.cancellation.cancelled:
            return
        self.answer = answer
        yield from answer.tokens[given:]

    def _advance(self, generation: Generation) -> bool:
        """Generate a token; False where there is none left, or the stream was closed meanwhile."""
        with self._request.watch.measure("decode"):
            try:
                next(iter(generation))
            except StopIteration:
                return False
        return True
