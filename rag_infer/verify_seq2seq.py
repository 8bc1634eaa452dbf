"""A fixed chain of calls of an encoder-decoder's graphs, which an export compares with PyTorch and stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.generate.seq2seq import Seq2SeqDecoder
from rag_infer.generate.vision import Vision, see_pixels
from rag_infer.parts import Seq2SeqGeneratorPart
from rag_infer.session import Session

Float = NDArray[np.float32]
PADDING = -1


@dataclass(frozen=True)
class Chain:
    """Contexts that are read, and steps after them.

    Attributes:
        contexts: int64 ``[rows, tokens]``, right-padded with -1.
        counts: int64 ``[questions]``, how many rows each question has.
        parents: int64 ``[steps, beams]``, the beam of the step before that each goes on from, in all questions.
        tokens: int64 ``[steps, questions, beams]``, the tokens appended.
        pixel_values: for a generator that sees, float32 ``[rows, sources, 3, height, width]``, else None.
    """

    contexts: NDArray[np.int64]
    counts: NDArray[np.int64]
    parents: NDArray[np.int64]
    tokens: NDArray[np.int64]
    pixel_values: Float | None = None

    @classmethod
    def of(
        cls,
        contexts: Sequence[Sequence[int]],
        *,
        counts: Sequence[int],
        vocab_size: int,
        pixel_values: Float | None = None,
    ) -> Chain:
        """The chain for these contexts: two steps of three beams, one dropped, one doubled, two crossing."""
        padded = np.full((len(contexts), max(map(len, contexts))), PADDING, dtype=np.int64)
        for row, context in zip(padded, contexts, strict=True):
            row[: len(context)] = context
        parents = np.array([[0, 0, 0], [2, 0, 0]])
        tokens = (np.arange(2 * len(counts) * 3) * 31 + 11) % vocab_size
        return cls(padded, np.array(counts), parents, tokens.reshape(2, len(counts), 3), pixel_values)

    @classmethod
    def stored(cls, arrays: Mapping[str, NDArray[Any]]) -> Chain:
        """The chain in a check file."""
        return cls(
            arrays["contexts"],
            arrays["counts"],
            arrays["parents"],
            arrays["tokens"],
            arrays.get("pixel_values"),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For a check file."""
        return {name: array for name, array in vars(self).items() if array is not None}

    def rows(self) -> list[list[int]]:
        """The contexts without padding."""
        return [row[row != PADDING].tolist() for row in self.contexts]

    def sequences(self, start: int) -> list[tuple[int, list[int]]]:
        """For every logit of `run`, in order, (the context's row, the tokens from the start token on)."""
        question_of_row = np.repeat(np.arange(len(self.counts)), self.counts).tolist()
        found = [(row, [start]) for row in range(len(question_of_row))]
        beams = [[[start]] for _ in self.counts]
        for parents, tokens in zip(self.parents, self.tokens, strict=True):
            beams = [
                [[*question[p], int(t)] for p, t in zip(parents, new, strict=True)]
                for question, new in zip(beams, tokens, strict=True)
            ]
            found += [(row, beam) for row, question in enumerate(question_of_row) for beam in beams[question]]
        return found

    def run(self, graph: Callable[[str], Session], part: Seq2SeqGeneratorPart) -> Float:
        """The logits of the first token and of each step.

        Args:
            graph: the session of a graph by its file name.
            part: the generator's entry in the manifest.

        Returns:
            float32 ``[logits, vocab]``.

        Raises:
            ValueError: a generator that sees, and no images to see, or the other way round.
        """
        decoder = Seq2SeqDecoder(graph(part.encoder_graph), graph(part.step_graph), part)
        vision = None if part.vision is None else Vision(graph(part.vision.graph), part.vision)
        seen = see_pixels(vision, self.pixel_values, len(self.contexts))
        state = decoder.read(self.rows(), self.counts.tolist(), seen=seen)
        found = [decoder.start(state)]
        question_of_row = np.repeat(np.arange(len(self.counts)), self.counts)
        for parents, tokens in zip(self.parents, self.tokens, strict=True):
            rows = np.tile(parents, (len(question_of_row), 1))
            found.append(decoder.step(state, rows, tokens[question_of_row]))
        return np.concatenate([x.reshape(-1, part.vocab_size) for x in found])
