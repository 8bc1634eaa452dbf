"""The batches that a build reads, each with the texts that have to be encoded for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rag_infer.errors import RagInferError
from rag_infer.knowledge.base import KnowledgeBase
from rag_infer.knowledge.passage import Passage, passage_text
from rag_infer.knowledge.transaction import Upserted

# The texts of each call of the encoder, and the passages with theirs.
Calls = list[list[str]]
Sent = tuple[Sequence[Passage], Calls]


class Source:
    """The batches, with the texts that `KnowledgeBase.upsert` will give to the encoder, call by call.

    Attributes:
        ended: there are no more.
        failure: why not, where reading them failed.
    """

    def __init__(
        self, knowledge_base: KnowledgeBase, batches: Iterable[Sequence[Passage]], *, deduplicate: bool
    ) -> None:
        self.ended = False
        self.failure: RagInferError | None = None
        self._knowledge_base = knowledge_base
        self._deduplicate = deduplicate
        self._batches = iter(batches)

    def commit(self, batch: Sequence[Passage]) -> Upserted:
        """Upsert a batch."""
        return self._knowledge_base.upsert(batch, deduplicate=self._deduplicate)

    def next(self) -> Sent | None:
        """The next batch with what has to be encoded for it; None at the end."""
        try:
            batch = next(self._batches, None)
        except RagInferError as error:
            batch, self.failure = None, error
        if batch is None:
            self.ended = True
            return None
        foreseen = self._knowledge_base.foresee(batch, deduplicate=self._deduplicate)
        return batch, [[passage_text(p) for p in passages] for passages in foreseen]
