"""Chunks filled with units: as many as fit, and the last ones again at the beginning of the next chunk."""

from __future__ import annotations

from collections.abc import Iterator

from rag_infer.knowledge.boundaries import Span
from rag_infer.knowledge.chunk_size import Measure
from rag_infer.knowledge.chunk_units import Unit, Units


class Filling:
    """Fills chunks with units. Every unit is tokenised once by itself and once in each chunk it is in."""

    def __init__(self, text: str, measure: Measure, units: Units, *, overlap: int) -> None:
        self._text = text
        self._measure = measure
        self._units = units
        self._overlap = overlap

    def spans(self) -> Iterator[Span]:
        """Start and end of each chunk."""
        repeated: list[Unit] = []
        while (unit := self._units.take()) is not None:
            while repeated and not self._fits(repeated, unit):
                del repeated[0]
            chunk = self._exact(repeated, self._filled([*repeated, unit])[len(repeated) :])
            if chunk:
                yield chunk[0].start, chunk[-1].end
                repeated = self._tail(chunk)

    def _fits(self, chunk: list[Unit], unit: Unit) -> bool:
        cost = sum(u.cost for u in chunk) + unit.cost
        return cost <= self._measure.budget and unit.end - chunk[0].start <= self._measure.max_characters

    def _filled(self, chunk: list[Unit]) -> list[Unit]:
        """A chunk with all the units that still fit."""
        cost = sum(u.cost for u in chunk)
        while (unit := self._units.take()) is not None:
            cost += unit.cost
            if cost > self._measure.budget or unit.end - chunk[0].start > self._measure.max_characters:
                self._units.put_back([unit])
                break
            chunk.append(unit)
        return chunk

    def _exact(self, repeated: list[Unit], new: list[Unit]) -> list[Unit]:
        """As much of a chunk as fits when it is measured as a whole: a little less where tokens do not just add up.

        Empty where even the first new unit does not fit alone; its pieces are taken next then.
        """
        repeated = list(repeated)
        while True:
            chunk = repeated + new
            excess = self._measure.excess(self._text[chunk[0].start : chunk[-1].end])
            if excess <= 0:
                return chunk
            if len(new) > 1:
                kept = max(1, len(new) - _how_many(new[::-1], excess))
                self._units.put_back(new[kept:])
                new = new[:kept]
            elif repeated:
                del repeated[: _how_many(repeated, excess)]
            else:
                self._units.cut(new[0])
                return []

    def _tail(self, chunk: list[Unit]) -> list[Unit]:
        """The last units of a chunk that are within the overlap; never all of them."""
        cost, first = 0, len(chunk)
        while self._overlap and first > 1 and cost + chunk[first - 1].cost <= self._overlap:
            first -= 1
            cost += chunk[first].cost
        return chunk[first:]


def _how_many(units: list[Unit], cost: int) -> int:
    """How many of the first units make up this cost, at least one."""
    count, found = 0, 0
    while count < len(units) and (found < cost or count == 0):
        found += units[count].cost
        count += 1
    return count
