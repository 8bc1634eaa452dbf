"""A build on Ray whose workers are killed while it runs: ADDRESS KB CORPUS BUNDLE BATCH_SIZE. Prints JSON.

One dies between the receipt of its vectors and the end of its task, another whenever it happens.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rag_infer.knowledge import KnowledgeBase, Passage
from rag_infer.knowledge.distributed import RayEncoder, encoding_on_ray, process
from rag_infer.knowledge.importers import Corpus
from tests.knowledge.ray_lingering_driver import LINGERING

# The number of the batch after which another worker is killed.
ANY = 9


def main(address: str, folder: str, corpus: str, bundle: str, size: str) -> None:
    process.MODULE = "tests.knowledge.ray_lingering_driver"
    process.BATCHES_AHEAD_PER_WORKER = 2  # else all may be done before any is killed
    killed: list[str] = []
    seen = 0
    with (
        Corpus([Path(corpus)]) as passages,
        encoding_on_ray(address, bundle=bundle, threads=1) as cluster,
        KnowledgeBase.create(folder, encoder=cluster, threads=1) as kb,
    ):
        before = cluster.workers.copy()
        for number, _ in enumerate(cluster.upsert(kb, batches(iter(passages), int(size)))):
            # Meanwhile nothing is supplied, so that every worker has a batch in its hands.
            if number == LINGERING:
                killed.append(next(iter(cluster.workers - before)))
                kill(killed[-1])
            elif number == ANY:
                killed.append(next(w for w in cluster.workers if w not in killed))
                kill(killed[-1])
            before = cluster.workers.copy()
            seen = number + 1
        print(json.dumps(report(cluster) | {"killed": killed, "batches": seen}))


def kill(worker: str) -> None:
    os.kill(int(worker.rpartition(":")[2]), signal.SIGKILL)


def report(cluster: RayEncoder) -> dict[str, Any]:
    return {"workers": dict(cluster.workers), "encoded_here": cluster.encoded_here}


def batches(passages: Iterator[Passage], size: int) -> Iterator[list[Passage]]:
    while batch := list(islice(passages, size)):
        yield batch


if __name__ == "__main__":
    main(*sys.argv[1:])
