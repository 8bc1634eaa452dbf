"""A new process that searches while another writes, until its input ends.

"busy": any questions, one after the other; says how long each took. "newcomer": for the passage that is written next,
again and again until it is found; says when that was (`time.monotonic`).
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from benchmarks.contenders.knowledge_search import wait_for_loading
from benchmarks.contenders.memory import memory
from benchmarks.passage_source import NEWCOMERS, QUERIES, Source, source
from rag_infer import KnowledgeBase

QUESTIONS = 200


def main() -> None:
    """Print one line of JSON."""
    given = json.loads(sys.argv[1])
    asked = source(given["dim"], seed=given["seed"], demo=given["demo"])
    ended = threading.Event()
    with KnowledgeBase.open(given["folder"], threads=given["threads"], verify="never") as knowledge_base:
        knowledge_base.search_vectors(asked.vectors(QUERIES, 0, 1), 1)
        wait_for_loading()
        print("ready", flush=True)
        threading.Thread(target=wait_for_the_end, args=(ended,), daemon=True).start()
        if given["watch"] == "busy":
            report = busy(knowledge_base, asked, ended)
        else:
            report = newcomers(knowledge_base, asked, ended, first=given["first"], size=given["batch"])
    print(json.dumps({**report, **memory()}))


def wait_for_the_end(ended: threading.Event) -> None:
    """Set the event when the input ends."""
    sys.stdin.read()
    ended.set()


def busy(knowledge_base: KnowledgeBase, asked: Source, ended: threading.Event) -> dict[str, Any]:
    """Milliseconds of every search, and how many revisions they saw."""
    vectors = asked.vectors(QUERIES, 0, QUESTIONS)
    milliseconds: list[float] = []
    revisions: set[int] = set()
    while not ended.is_set():
        i = len(milliseconds) % QUESTIONS
        start = time.perf_counter()
        _, revision = knowledge_base.search_revision(vectors[i : i + 1], 10)
        milliseconds.append((time.perf_counter() - start) * 1e3)
        revisions.add(revision)
    return {"milliseconds": milliseconds, "revisions": len(revisions)}


def newcomers(
    knowledge_base: KnowledgeBase, asked: Source, ended: threading.Event, *, first: int, size: int
) -> dict[str, Any]:
    """When the first passage of each batch from ``first`` on was found, by id."""
    seen: dict[str, float] = {}
    batch = first
    passages, vectors = asked.passages(NEWCOMERS, batch, size)
    while not ended.is_set():
        found = knowledge_base.search_vectors(vectors[:1], 1)[0]
        if found and found[0].id == passages[0].id:
            seen[passages[0].id] = time.monotonic()
            batch += 1
            passages, vectors = asked.passages(NEWCOMERS, batch, size)
    return {"seen": seen}


if __name__ == "__main__":
    main()
