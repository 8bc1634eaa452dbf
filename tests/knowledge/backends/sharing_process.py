"""A process that writes to a shared knowledge base while it searches it: ADDRESS NAME BATCHES."""

from __future__ import annotations

import sys

from rag_infer.knowledge import KnowledgeBase, Passage
from tests.knowledge.encoders import HashingEncoder


def main(address: str, name: str, batches: int) -> None:
    with KnowledgeBase.open(address, encoder=HashingEncoder()) as kb:
        last = 0
        for number in range(batches):
            batch = {"batch": f"{name}-{number}"}
            mine = [
                Passage(f"{name}-{number}-{i}", f"{name} words {number}", metadata=batch) for i in range(10)
            ]
            shared = Passage("shared", f"text by {name} in {number}")
            kb.upsert([*mine, shared])
            found, revision = kb.search_revision(HashingEncoder().encode(["words"]), 20, where=batch)
            assert revision > last, (revision, last)
            last = revision
            assert {p.id for p in found[0]} == {p.id for p in mine}, found
            if number % 5 == 4:
                assert kb.delete([mine[0].id]) == [mine[0].id]
    print("done")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
