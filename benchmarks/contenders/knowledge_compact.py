"""A new process that deletes some passages, compacts the knowledge base and checks it: how long each takes."""

from __future__ import annotations

import json
import sys
import time

from benchmarks.contenders.memory import memory
from benchmarks.passage_source import PASSAGES
from rag_infer import KnowledgeBase


def main() -> None:
    """Print one line of JSON."""
    given = json.loads(sys.argv[1])
    ids = [f"{PASSAGES}-{number:09d}" for number in range(0, given["passages"], given["every"])]
    with KnowledgeBase.open(given["folder"], threads=given["threads"], verify="never") as knowledge_base:
        start = time.perf_counter()
        deleted = len(knowledge_base.delete(ids))
        at_deleted = time.perf_counter()
        knowledge_base.compact()
        at_compacted = time.perf_counter()
        knowledge_base.check()
        checked = time.perf_counter()
    report = {
        "deleted": deleted,
        "delete_s": at_deleted - start,
        "compact_s": at_compacted - at_deleted,
        "check_s": checked - at_compacted,
    }
    print(json.dumps({**report, **{f"compact_{name}": value for name, value in memory().items()}}))


if __name__ == "__main__":
    main()
