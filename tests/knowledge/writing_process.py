"""A process that upserts forever, deletes and compacts now and then, and says after each commit that it is done.

Run as ``python -m tests.knowledge.writing_process KB``. Batch number b holds the ids b-0 to b-4; every third
batch is deleted by the next but one. Prints ``+b`` or ``-b`` once the change is committed.
"""

from __future__ import annotations

import sys
from itertools import count

from rag_infer.knowledge import KnowledgeBase, Passage
from tests.knowledge.encoders import HashingEncoder

BATCH = 5


def batch(number: int) -> list[Passage]:
    """The passages of a batch."""
    return [
        Passage(f"{number}-{i}", f"batch{number} item{i}", metadata={"batch": number}) for i in range(BATCH)
    ]


def main() -> None:
    """Write until killed."""
    kb = KnowledgeBase.open(sys.argv[1], encoder=HashingEncoder(similarity="cosine"), threads=1)
    start = 1 + max((int(p.id.split("-")[0]) for p in kb.search("item0", k=len(kb) or 1)), default=-1)
    for number in count(start):
        kb.upsert(batch(number))
        print(f"+{number}", flush=True)
        if number % 3 == 2:
            kb.delete([p.id for p in batch(number - 2)])
            print(f"-{number - 2}", flush=True)
        if number % 10 == 9:
            kb.compact()
        if number % 10 == 4:
            kb.build_index("hnsw")


if __name__ == "__main__":
    main()
