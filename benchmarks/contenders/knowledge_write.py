"""A new process that upserts for some seconds, and says when each call began and returned (`time.monotonic`)."""

from __future__ import annotations

import json
import sys
import time

from benchmarks.contenders.memory import memory
from benchmarks.passage_source import NEWCOMERS, source
from rag_infer import KnowledgeBase

# Rest for the one beside to find what was written last.
AFTERWARDS_S = 1.0


def main() -> None:
    """Print one line of JSON."""
    given = json.loads(sys.argv[1])
    batch, first = given["batch"], given["first"]
    passages_from = source(given["dim"], seed=given["seed"], demo=given["demo"])
    calls: list[tuple[str, float, float]] = []
    with KnowledgeBase.open(given["folder"], threads=1, verify="never") as knowledge_base:
        print("ready", flush=True)
        sys.stdin.readline()
        end = time.monotonic() + given["seconds"]
        while time.monotonic() < end and len(calls) < given["calls"]:
            passages, vectors = passages_from.passages(NEWCOMERS, first + len(calls), batch)
            called = time.monotonic()
            knowledge_base.upsert(passages, vectors)
            calls.append((passages[0].id, called, time.monotonic()))
            time.sleep(given["pause_s"])
        # Without calls it is seen how the one beside does undisturbed.
        time.sleep(AFTERWARDS_S if given["calls"] else given["seconds"])
    print(json.dumps({"calls": calls, **memory()}))


if __name__ == "__main__":
    main()
