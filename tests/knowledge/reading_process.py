"""A process that searches without a pause and complains of anything it should not see.

``python -m tests.knowledge.reading_process KB SECONDS`` prints a line of JSON. The passages p0 to p9 are always there,
all of the same round; x0, x1, ... come and go.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

from rag_infer.knowledge import KnowledgeBase
from tests.knowledge.encoders import HashingEncoder

STEADY = 10


def main() -> None:
    """Search until the time is over."""
    warnings.simplefilter("error")
    path, seconds = sys.argv[1], float(sys.argv[2])
    searches, rounds, revisions = 0, set(), [0]
    end = time.monotonic() + seconds
    with KnowledgeBase.open(path, encoder=HashingEncoder(), threads=1) as kb:
        vectors = HashingEncoder().encode(["item3 steady"])
        while time.monotonic() < end:
            found = kb.search_vectors(vectors, 1000)[0]
            steady = {p.id: p.metadata["round"] for p in found if p.id.startswith("p")}
            assert sorted(steady) == [f"p{i}" for i in range(STEADY)], steady
            assert len(set(steady.values())) == 1, steady
            assert found.revision >= revisions[-1]
            chosen = kb.search_vectors(vectors, 5, where={"steady": {"$gte": 1}})[0]
            assert chosen[0].id == "p3", chosen
            rounds |= set(steady.values())
            revisions.append(found.revision)
            searches += 1
    print(json.dumps({"searches": searches, "rounds": len(rounds), "revisions": len(set(revisions))}))


if __name__ == "__main__":
    main()
