"""Adding and replacing passages: any number of them, read a batch at a time, committed together.

A passage is compared by digests with what is there: the same costs nothing, other metadata alone are changed in
place, and only another title or text is encoded.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag_infer.knowledge.arguments import check_passages
from rag_infer.knowledge.checksums import vector_digest
from rag_infer.knowledge.image_files import image_name
from rag_infer.knowledge.passage import Passage, metadata_digest, text_digest
from rag_infer.knowledge.queries import Digests, Known, ids_of_texts, known_passages
from rag_infer.knowledge.transaction import Transaction, Upserted
from rag_infer.knowledge.writer import Writer

Vectors = NDArray[np.float32]

# Passages that are in memory at a time; also the size of a block of vectors with one checksum.
BATCH_SIZE = 1024


class Batch(NamedTuple):
    """Passages with different ids, and their vectors where the caller gave them."""

    passages: list[Passage]
    vectors: Vectors | None


class Sorted(NamedTuple):
    """What is to be done with a batch: places in it."""

    new: list[int]
    described: list[int]
    unchanged: int
    duplicates: int
    known: Mapping[str, Known]


class Upsert:
    """One call of `KnowledgeBase.upsert`.

    Args:
        writer: of the knowledge base.
        encode: passages to vectors as they are stored, float32 ``[passages, dim]``.
        deduplicate: leave out passages whose title and text another passage has.
    """

    def __init__(
        self, writer: Writer, encode: Callable[[Sequence[Passage]], Vectors], *, deduplicate: bool
    ) -> None:
        self._writer = writer
        self._encode = encode
        self._deduplicate = deduplicate

    def run(self, batches: Iterator[Batch]) -> Upserted:
        """Commit all batches together."""
        first, second = next(batches, None), next(batches, None)
        if first is None:
            return Upserted()
        if second is None:
            return self._alone(first)
        with self._writer.transaction() as transaction:
            return self.into(transaction, chain((first, second), batches))

    def into(self, transaction: Transaction, batches: Iterable[Batch]) -> Upserted:
        """Put all batches into a transaction."""
        total = Upserted()
        for batch in batches:
            total = total.plus(self._put(transaction, batch, None))
        return total

    def foresee(self, batches: Iterator[Batch]) -> list[list[Passage]]:
        """The passages that `run` would now encode, those of one call of ``encode`` in one list."""
        with self._writer.record.reading() as connection:
            todo = [(b.passages, self._sort(connection, b).new) for b in batches]
        return [[passages[i] for i in new] for passages, new in todo if new]

    def _alone(self, batch: Batch) -> Upserted:
        """One batch: encoded before the lock is asked for, so that writers wait for the disk only."""
        with self._writer.record.reading() as connection:
            todo = self._sort(connection, batch)
        if not todo.new and not todo.described:
            return Upserted(unchanged=todo.unchanged, duplicates=todo.duplicates)
        vectors = self._vectors(batch, todo.new)
        encoded = dict(zip(todo.new, vectors, strict=True))
        with self._writer.transaction() as transaction:
            return self._put(transaction, batch, encoded)

    def _put(self, transaction: Transaction, batch: Batch, encoded: dict[int, Vectors] | None) -> Upserted:
        todo = self._sort(transaction.connection, batch)
        passages = [batch.passages[i] for i in todo.new]
        if encoded is not None and all(i in encoded for i in todo.new):
            vectors = np.stack([encoded[i] for i in todo.new]) if todo.new else None
        else:  # another writer has changed some of them meanwhile
            vectors = self._vectors(batch, todo.new) if todo.new else None
        if todo.described:
            described = [batch.passages[i] for i in todo.described]
            transaction.describe([todo.known[p.id] for p in described], [p.metadata for p in described])
        done = Upserted(replaced=len(todo.described), unchanged=todo.unchanged, duplicates=todo.duplicates)
        if vectors is None:
            return done
        return done.plus(transaction.put(passages, vectors, encoded=batch.vectors is None))

    def _vectors(self, batch: Batch, places: Sequence[int]) -> Vectors:
        if batch.vectors is not None:
            for image in (batch.passages[i].image for i in places):
                if image is not None:
                    image.pixels()  # which encoding would have refused, if it is none
            return batch.vectors[list(places)]
        if not places:
            return np.empty((0, 0), dtype=np.float32)
        return self._encode([batch.passages[i] for i in places])

    def _sort(self, connection: sqlite3.Connection, batch: Batch) -> Sorted:
        """What is new, what has other metadata only, and what is as it was."""
        known = known_passages(connection, [p.id for p in batch.passages])
        new, described, unchanged = [], [], 0
        for i, passage in enumerate(batch.passages):
            there = known.get(passage.id)
            if (
                there is None
                or not _same_vector(passage, batch, i, there.digests)
                or self._moved(passage, there)
            ):
                new.append(i)
            elif there.digests.metadata != metadata_digest(passage.metadata):
                described.append(i)
            else:
                unchanged += 1
        kept = self._without_duplicates(connection, batch, new, known) if self._deduplicate else new
        return Sorted(kept, described, unchanged, len(new) - len(kept), known)

    def _moved(self, passage: Passage, there: Known) -> bool:
        """Whether the image is to lie elsewhere than it does, or is not there any more."""
        image = passage.image
        if image is None:
            return False
        return image_name(image) != there.image or not self._writer.images.has(image)

    def _without_duplicates(
        self, connection: sqlite3.Connection, batch: Batch, places: Sequence[int], known: Mapping[str, Known]
    ) -> list[int]:
        """Those that replace one, and those whose title and text no other passage has, here or in the record."""
        digests = {i: text_digest(batch.passages[i]) for i in places}
        # Those that are replaced will not have their texts any more.
        replaced = [known[id_].row for i in places if (id_ := batch.passages[i].id) in known]
        holders = ids_of_texts(connection, list(digests.values()), besides=replaced)
        kept = []
        for i in places:
            id_ = batch.passages[i].id
            if holders.setdefault(digests[i], id_) == id_ or id_ in known:
                kept.append(i)
        return kept


def batches_of(
    passages: Iterable[Passage], vectors: Vectors | None, *, stored: Callable[[Vectors], Vectors]
) -> Iterator[Batch]:
    """Passages a batch at a time; of several with the same id in a batch the last counts.

    Args:
        passages: read once.
        vectors: float32 ``[passages, dim]`` or None.
        stored: vectors as they are stored.

    Raises:
        TypeError: something else than passages.
    """
    source, start = iter(passages), 0
    while found := check_passages(islice(source, BATCH_SIZE)):
        last = {p.id: i for i, p in enumerate(found)}
        kept = sorted(last.values())
        given = None if vectors is None else stored(vectors[start : start + len(found)][kept])
        yield Batch([found[i] for i in kept], given)
        start += len(found)


def _same_vector(passage: Passage, batch: Batch, place: int, digests: Digests) -> bool:
    """Whether a passage has the vector that is stored: encoded from the same text, or given and equal."""
    if digests.text != text_digest(passage) or digests.encoded != (batch.vectors is None):
        return False
    return batch.vectors is None or vector_digest(batch.vectors[place]) == digests.vector
