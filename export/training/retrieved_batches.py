"""Batches of questions with what a frozen dual encoder retrieves for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rag_infer.export.training.dual_encoder import SCORE_SCALE, DualEncoder
from rag_infer.export.training.easy_vqa import Question, Split
from rag_infer.export.training.generator import Batch, RagGenerator
from rag_infer.export.training.retrieval import Memory

N_DOCS = 3
# The share of training questions that get an empty passage, so that the generator knows how to do without.
EMPTY_SHARE = 0.1


class Retrieval:
    """The training images as memory, and the images and questions of a split as queries.

    Args:
        encoder: the dual encoder, trained.
        memory: the split that is searched.
        split: the split that is asked about; where it is the same, a question's own image is not found.
    """

    def __init__(self, encoder: DualEncoder, memory: Split, split: Split) -> None:
        self._passages = [facts.sentence for facts in memory.facts]
        known = encoder.encode_images(torch.from_numpy(memory.pixels()))
        self._memory = Memory(encoder.encode_texts(self._passages), known)
        self.pixels = torch.from_numpy(split.pixels())
        self._own = split is memory
        self._images = known if self._own else encoder.encode_images(self.pixels)
        distinct = sorted({q.text for q in split.questions})
        self._texts = dict(zip(distinct, encoder.encode_texts(distinct), strict=True))

    def batch(self, questions: Sequence[Question], *, n_docs: int = N_DOCS) -> Batch:
        """Questions with the passages found for each."""
        images = torch.tensor([q.image for q in questions])
        texts = torch.stack([self._texts[q.text] for q in questions])
        scores, found = self._memory.search(
            texts, self._images[images], n_docs, without=images if self._own else None
        )
        passages = [[self._passages[i] for i in row] for row in found.tolist()]
        return Batch([q.text for q in questions], self.pixels[images], passages, SCORE_SCALE * scores)


def without_passages(batch: Batch, rows: Tensor | None = None) -> Batch:
    """The same questions, with empty passages in place of what was found.

    Args:
        batch: the questions.
        rows: bool ``[questions]``, which; default all.
    """
    chosen = [True] * len(batch.questions) if rows is None else rows.tolist()
    passages = [[""] * len(p) if empty else p for p, empty in zip(batch.passages, chosen, strict=True)]
    return Batch(batch.questions, batch.pixels, passages, batch.scores)


class MarginalSteps:
    """The loss of one step after the other.

    Args:
        generator: what learns.
        retrieval: of the training questions.
        questions: they.
        batch_size: questions of a step.
        seed: of the draws.
    """

    def __init__(
        self,
        generator: RagGenerator,
        retrieval: Retrieval,
        questions: Sequence[Question],
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        self._generator = generator
        self._retrieval = retrieval
        self._questions = questions
        self._batch_size = batch_size
        self._draws = torch.Generator().manual_seed(seed)

    def __call__(self) -> Tensor:
        """-log p(y|x), the mean over a batch."""
        drawn = torch.randint(len(self._questions), (self._batch_size,), generator=self._draws).tolist()
        questions = [self._questions[i] for i in drawn]
        empty = torch.rand(self._batch_size, generator=self._draws) < EMPTY_SHARE
        batch = without_passages(self._retrieval.batch(questions), empty)
        return self._generator.loss(batch, [q.answer for q in questions])
