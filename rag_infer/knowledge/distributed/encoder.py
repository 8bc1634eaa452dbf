"""A passage encoder whose work a Ray cluster does, and the knowledge base filled by it."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag_infer.bundle import Bundle
from rag_infer.encode import TextEncoder
from rag_infer.errors import BundleError
from rag_infer.knowledge.base import KnowledgeBase
from rag_infer.knowledge.distributed.messages import Encoded
from rag_infer.knowledge.distributed.process import Driver
from rag_infer.knowledge.distributed.source import Calls, Sent, Source
from rag_infer.knowledge.passage import Passage
from rag_infer.knowledge.transaction import Upserted
from rag_infer.session import check_threads

# A stream's blocks are all made when it begins, some milliseconds each; after so many another process begins the next.
BATCHES_PER_DRIVER = 4096


class RayEncoder:
    """A bundle's passage encoder whose work is done by a Ray cluster.

    To be given as ``encoder`` to the knowledge base that `upsert` then fills. It encodes passages only: open the
    knowledge base with the bundle to search.

    Args:
        address: of the cluster.
        bundle: whose passage encoder it is.
        threads: of each worker.

    Attributes:
        dim, fingerprint, similarity, max_length: of the bundle's passage encoder.
        workers: batches encoded so far by each worker, named ``host:pid``.
        encoded_here: texts that were not foreseen, and encoded by this process.

    Raises:
        BundleError: the bundle has an image encoder.
    """

    def __init__(self, address: str, bundle: Bundle, *, threads: int) -> None:
        if bundle.manifest.image_encoder is not None:
            raise BundleError(
                f"the bundle {bundle.folder} has an image encoder, and Ray's workers read texts only: build without Ray"
            )
        self._address = address
        self._bundle = bundle
        self._threads = threads
        self._connected: Driver | None = Driver(address, bundle, threads=threads)
        part = bundle.manifest.passage_encoder
        assert part is not None, "the driver has checked it"
        self.dim = part.dim
        self.fingerprint = bundle.fingerprint(part)
        self.similarity = bundle.manifest.retrieval.similarity
        self.max_length = part.max_length
        self.workers: Counter[str] = Counter()
        self.encoded_here = 0
        self._foreseen: deque[tuple[list[str], NDArray[np.float32]]] = deque()
        self._local: TextEncoder | None = None

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts, float32 ``[texts, dim]``: the workers' for the batch being committed, else made here."""
        if self._foreseen and self._foreseen[0][0] == list(texts):
            return self._foreseen.popleft()[1]
        self.encoded_here += len(texts)
        if self._local is None:
            part = self._bundle.manifest.passage_encoder
            self._local = TextEncoder.from_bundle(self._bundle, part, threads=self._threads)
        return self._local.encode(texts)

    def upsert(
        self,
        knowledge_base: KnowledgeBase,
        batches: Iterable[Sequence[Passage]],
        *,
        at_most: int | None = None,
        deduplicate: bool = False,
    ) -> Iterator[tuple[int, Upserted]]:
        """Upsert batches, each committed by itself and in order; what is stored already is not encoded.

        Only some batches are in memory: as many as are with workers, wait for one, or wait to be committed; no more
        than some for each worker.

        Args:
            knowledge_base: opened with this encoder; nobody else writes to it meanwhile.
            batches: of passages.
            at_most: how many batches there can be, where that is known.
            deduplicate: as for `KnowledgeBase.upsert`; a batch that repeats texts of one still being encoded is
                encoded here.

        Yields:
            (passages in the batch, what `KnowledgeBase.upsert` did), batch by batch.

        Raises:
            KnowledgeBaseError: a worker failed for good; what was committed is kept. Or as `KnowledgeBase.upsert`.
            RagInferError: what reading the batches raised, after those before it were committed.
        """
        source = Source(knowledge_base, batches, deduplicate=deduplicate)
        # One number too many, for that is how the end is found.
        limit = min(BATCHES_PER_DRIVER, BATCHES_PER_DRIVER if at_most is None else at_most + 1)
        while not source.ended:
            with self._driver() as driver:
                driver.begin(batches=limit)
                yield from self._fill(source, driver)
        if source.failure is not None:
            raise source.failure

    def close(self) -> None:
        """Leave the cluster."""
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    def _driver(self) -> Driver:
        driver, self._connected = self._connected, None
        return driver or Driver(self._address, self._bundle, threads=self._threads)

    def _fill(self, source: Source, driver: Driver) -> Iterator[tuple[int, Upserted]]:
        sent: deque[Sent] = deque()
        while True:
            self._supply(source, driver, sent)
            if not sent:
                return
            if not sent[0][1]:  # it needs no vectors, but had to wait for those before it
                batch, _ = sent.popleft()
                yield len(batch), source.commit(batch)
            elif (encoded := driver.next()) is not None:
                yield self._commit(source, *sent.popleft(), encoded)
                driver.forget(encoded.number)

    def _supply(self, source: Source, driver: Driver, sent: deque[Sent]) -> None:
        """Supply batches as far as workers want them, and as may be in memory."""
        while not source.ended and len(sent) < driver.most_ahead and driver.wants():
            following = source.next()
            if following is None:
                driver.end()
                return
            sent.append(following)
            if calls := following[1]:
                driver.supply(calls)
        if not source.ended:
            driver.listen()

    def _commit(
        self, source: Source, batch: Sequence[Passage], calls: Calls, encoded: Encoded
    ) -> tuple[int, Upserted]:
        self.workers[encoded.worker] += 1
        parts = np.split(encoded.vectors, np.cumsum([len(texts) for texts in calls])[:-1])
        self._foreseen = deque(zip(calls, parts, strict=True))
        try:
            return len(batch), source.commit(batch)
        finally:
            self._foreseen.clear()


@contextlib.contextmanager
def encoding_on_ray(address: str, *, bundle: str | Path, threads: int | None = None) -> Iterator[RayEncoder]:
    """A bundle's passage encoder on a Ray cluster, for a ``with`` block.

    The encoder's files travel through Ray: the workers' machines need `rag_infer`, not the bundle. Ray is driven by
    another process, for its core may end the one it is in.

    Args:
        address: "local" for a Ray of its own on this machine, "auto" or "host:port" for one that runs.
        bundle: whose passage encoder it is.
        threads: of each worker, default the processors of this machine; as many workers as fit into the cluster.

    Raises:
        KnowledgeBaseError: Ray is not installed, not to be reached, or too small.
        BundleError: the bundle is not whole, or has no passage encoder.
    """
    encoder = RayEncoder(address, Bundle.load(bundle), threads=check_threads(threads))
    with contextlib.closing(encoder):
        yield encoder
