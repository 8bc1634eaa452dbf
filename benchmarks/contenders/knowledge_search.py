"""A new process that opens a knowledge base and searches it: how soon, how fast, in how much memory, what it finds."""

from __future__ import annotations

import time

START = time.perf_counter()

import json  # noqa: E402 - the clock comes first
import sys  # noqa: E402
import threading  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from benchmarks.contenders.memory import memory  # noqa: E402
from rag_infer import KnowledgeBase  # noqa: E402

IMPORTED = time.perf_counter()
WARM_UP = 3


def main() -> None:
    """Print one line of JSON."""
    given = json.loads(sys.argv[1])
    start = time.perf_counter()
    knowledge_base = KnowledgeBase.open(given["folder"], threads=given["threads"], verify=given["verify"])
    opened = time.perf_counter()
    vector = np.zeros((1, given["dim"]), dtype=np.float32)
    vector[0, 0] = 1
    knowledge_base.search_vectors(vector, 10)
    answered = time.perf_counter()
    loaded = wait_for_loading()
    report: dict[str, Any] = {
        "import_s": IMPORTED - START,
        "open_s": opened - start,
        "first_answer_s": answered - start,
        "loaded_s": loaded - start,
        "indexed": knowledge_base.info()["search"] == "hnsw",
        "cases": {},
    }
    if given["cases"]:
        from benchmarks.passage_source import source

        asked = source(given["dim"], seed=given["seed"], demo=given["demo"])
        for case in given["cases"]:
            report["cases"][case["name"]] = timed(asker(knowledge_base, asked, case), case["queries"])
    report |= memory()
    knowledge_base.close()
    print(json.dumps(report))


def wait_for_loading() -> float:
    """When the snapshots that are loaded beside searches are there; until then searches are exact."""
    for thread in threading.enumerate():
        if thread.name.startswith("load "):
            thread.join()
    return time.perf_counter()


def asker(knowledge_base: KnowledgeBase, asked: Any, case: dict[str, Any]) -> Callable[[int], list[str]]:
    """What finds the ids for the question of a number."""
    from benchmarks.passage_source import QUERIES

    k, where = case["k"], case.get("where")
    vectors = asked.vectors(QUERIES, 0, case["queries"])
    if "mode" not in case:
        return lambda i: [p.id for p in knowledge_base.search_vectors(vectors[i : i + 1], k, where=where)[0]]
    from rag_infer import SearchConfig

    config = SearchConfig(mode=case["mode"])
    questions = asked.questions(case["queries"])
    return lambda i: [
        p.id
        for p in knowledge_base.search_questions(
            questions[i : i + 1], vectors[i : i + 1], k, where=where, search=config
        )[0][0]
    ]


def timed(ask: Callable[[int], list[str]], queries: int) -> dict[str, Any]:
    """Latencies of single questions, of the very first one too, and what they found."""
    start = time.perf_counter()
    ask(0)
    first = (time.perf_counter() - start) * 1e3
    for i in range(WARM_UP):
        ask(i % queries)
    milliseconds, found = [], []
    for i in range(queries):
        start = time.perf_counter()
        found.append(ask(i))
        milliseconds.append((time.perf_counter() - start) * 1e3)
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "first_ms": first, "found": found}


if __name__ == "__main__":
    main()
