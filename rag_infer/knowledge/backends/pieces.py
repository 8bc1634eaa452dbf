"""An upsert's passages in pieces: what is there already is left out, the rest is encoded as it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge.arguments import check_passages
from rag_infer.knowledge.backends.digests import contents_digest
from rag_infer.knowledge.backends.protocol import Piece, SearchBackend
from rag_infer.knowledge.passage import Passage

PASSAGES_PER_PIECE = 1024
# So many pieces are kept until they are committed, to be sent again where the server is lost meanwhile. An upsert of
# more is streamed, and has to be begun again by its caller.
PIECES_KEPT = 8


class Pieces:
    """The pieces of one upsert.

    Args:
        backend: what knows the digests of what is there.
        passages: any number.
        vectors: float32 ``[passages, dim]`` where they are given.
        encode: makes the vectors of some passages, as they are to be stored.
        stored: makes given vectors what is to be stored.

    Attributes:
        ids: of the passages read so far.
    """

    def __init__(
        self,
        backend: SearchBackend,
        passages: Iterable[Passage],
        vectors: NDArray[np.float32] | None,
        *,
        encode: Callable[[Sequence[Passage]], NDArray[np.float32]],
        stored: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    ) -> None:
        self.ids: set[str] = set()
        self._backend = backend
        self._source = iter(passages)
        self._vectors = vectors
        self._encode = encode
        self._stored = stored
        self._sent: set[str] = set()

    def prepared(self) -> Iterable[Piece] | None:
        """The pieces: a sequence where they are few, else an iterator; None where there is nothing to write."""
        pieces = self._pieces()
        kept = list(islice(pieces, PIECES_KEPT))
        more = next(pieces, None)
        if more is not None:
            return chain(kept, [more], pieces)
        return kept if any(piece.passages for piece in kept) else None

    def _pieces(self) -> Iterator[Piece]:
        start = 0
        while batch := check_passages(islice(self._source, PASSAGES_PER_PIECE)):
            given = None if self._vectors is None else self._vectors[start : start + len(batch)]
            start += len(batch)
            self.ids.update(p.id for p in batch)
            seen = next((p.id for p in batch if p.image is not None), None)
            if seen is not None:
                raise KnowledgeBaseError(f"passage {seen!r} has an image: images are kept in folders only")
            yield self._piece(batch, given)

    def _piece(self, batch: list[Passage], vectors: NDArray[np.float32] | None) -> Piece:
        last = {p.id: i for i, p in enumerate(batch)}
        digests = {
            i: contents_digest(batch[i], None if vectors is None else vectors[i]) for i in last.values()
        }
        known = self._backend.digests(list(last))
        # What is known as it is costs no work, unless this very call has sent something else for it before.
        same = {
            id_: digests[i]
            for id_, i in last.items()
            if id_ not in self._sent and known.get(id_) == digests[i]
        }
        new = sorted(i for id_, i in last.items() if id_ not in same)
        chosen = [batch[i] for i in new]
        self._sent.update(p.id for p in chosen)
        return Piece(chosen, [digests[i] for i in new], self._made(chosen, vectors, new), same)

    def _made(
        self, chosen: list[Passage], vectors: NDArray[np.float32] | None, new: list[int]
    ) -> NDArray[np.float32]:
        if not chosen:
            return np.empty((0, 0), dtype=np.float32)
        return self._encode(chosen) if vectors is None else self._stored(vectors[new])
