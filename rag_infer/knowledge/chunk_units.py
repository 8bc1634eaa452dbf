"""The units that chunks are filled with: sentences or words, and smaller pieces where one is too long for a chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from rag_infer.knowledge.boundaries import Span, graphemes, sentences, words
from rag_infer.knowledge.chunk_size import Measure

# Units measured in one call of the tokenizer.
BATCH = 256


class Unit(NamedTuple):
    """A piece of a document that goes into a chunk whole.

    Attributes:
        start, end: its place in the text.
        cost: its words or tokens.
        level: which of the finer cuts it comes from.
    """

    start: int
    end: int
    cost: int
    level: int


class Units:
    """The units of a text in order; ones that were taken can be put back.

    Raises:
        ValueError: while taking: one character costs more than a chunk may.
    """

    def __init__(self, text: str, measure: Measure, *, language: str | None) -> None:
        """Sentences of ``language``, or words where it is None."""
        self._text = text
        self._measure = measure
        # From the coarsest cut to the finest; a unit that is too long is cut at the next level.
        self._levels: list[Callable[[int, int], Iterator[Span]]] = [
            lambda start, end: words(text, start, end),
            self._tokens,
            self._runs,
            lambda start, end: graphemes(text, start, end),
            lambda start, end: ((i, i + 1) for i in range(start, end)),
        ]
        first = words(text) if language is None else sentences(text, language)
        self._ahead = [self._measured(first, 0 if language is None else -1)]

    def take(self) -> Unit | None:
        """The next unit, or None at the end."""
        while self._ahead:
            unit = next(self._ahead[-1], None)
            if unit is None:
                self._ahead.pop()
            elif unit.cost > self._measure.budget or unit.end - unit.start > self._measure.max_characters:
                self.cut(unit)
            else:
                return unit
        return None

    def put_back(self, units: list[Unit]) -> None:
        """Let these be taken again next."""
        self._ahead.append(iter(units))

    def cut(self, unit: Unit) -> None:
        """Let the pieces of this unit be taken next.

        Raises:
            ValueError: it is one character.
        """
        level = unit.level + 1
        if level == len(self._levels):
            raise ValueError(
                f"the character {self._text[unit.start]!r} at {unit.start} takes {unit.cost} of the "
                f"{self._measure.budget} that a chunk has for its text: make the size larger"
            )
        self._ahead.append(self._measured(self._levels[level](unit.start, unit.end), level))

    def _measured(self, spans: Iterator[Span], level: int) -> Iterator[Unit]:
        before = 0
        while batch := list(islice(spans, BATCH)):
            pieces = []
            for start, end in batch:
                # With the space before it: byte-level and SentencePiece tokenizers count it to the word.
                pieces.append(self._text[max(before, start - 1) : end])
                before = end
            # What has too many characters is cut anyway: it need not be tokenised.
            limit = self._measure.max_characters
            costs = self._measure.costs([p if len(p) <= limit + 1 else "" for p in pieces])
            yield from (Unit(*span, cost, level) for span, cost in zip(batch, costs, strict=True))

    def _tokens(self, start: int, end: int) -> Iterator[Span]:
        """The tokens of a word, those that share a grapheme together."""
        ends: set[int] = set()
        if end - start <= self._measure.max_characters:
            ends = {start + e for e in self._measure.token_ends(self._text[start:end])}
        begin = start
        for _, stop in graphemes(self._text, start, end):
            if stop in ends or stop == end:
                yield begin, stop
                begin = stop

    def _runs(self, start: int, end: int) -> Iterator[Span]:
        """Graphemes, several at once."""
        begin = start
        for _, stop in graphemes(self._text, start, end):
            if stop - begin >= self._measure.run or stop == end:
                yield begin, stop
                begin = stop
