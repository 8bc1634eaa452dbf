"""A build on a Ray cluster whose processors are all taken by something else: ADDRESS KB CORPUS BUNDLE BATCH_SIZE.

Prints the error in which it ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge import KnowledgeBase
from rag_infer.knowledge.distributed import encoding_on_ray, process
from rag_infer.knowledge.importers import Corpus
from tests.knowledge.ray_killing_process import batches


def main(address: str, folder: str, corpus: str, bundle: str, size: str) -> None:
    process.MODULE = "tests.knowledge.ray_busy_driver"
    with (
        Corpus([Path(corpus)]) as passages,
        encoding_on_ray(address, bundle=bundle, threads=1) as cluster,
        KnowledgeBase.create(folder, encoder=cluster, threads=1) as kb,
    ):
        try:
            list(cluster.upsert(kb, batches(iter(passages), int(size))))
        except KnowledgeBaseError as error:
            print(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
