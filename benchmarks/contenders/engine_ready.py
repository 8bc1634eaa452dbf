"""A new process that loads an engine and answers: says when it was ready, and what memory it holds meanwhile.

Not timed by `serve`: the arena's clock starts when the process is already there.
"""

from __future__ import annotations

import time

START = time.perf_counter()

import json  # noqa: E402 - the clock comes first
import sys  # noqa: E402

from benchmarks.contenders.serve import anonymous_megabytes  # noqa: E402
from rag_infer import RagEngine  # noqa: E402

QUESTIONS = (
    "What is the capital of France?",
    "Who wrote Hamlet?",
    "How high is Mount Everest?",
    "What does a volcano throw out, and where does all of that come from when it does?",
    "In which year did the Second World War end?",
)
N_DOCS = (1, 3, 1, 2, 1, 5, 1)
# Memory is looked at between requests, after each hundred; after the first, every length of passage has been met.
EVERY = 100


def main() -> None:
    """Print one line of JSON."""
    given = json.loads(sys.argv[1])
    imported = time.perf_counter()
    engine = RagEngine.from_pretrained(
        given["bundle"],
        knowledge_base=given["knowledge_base"],
        threads=given["threads"],
        passage_cache_mb=given["passage_cache_mb"],
    )
    ready = time.perf_counter()
    ready_mb = anonymous_megabytes()
    between: list[float] = []
    for i in range(given["requests"]):
        settings = ({}, {"num_beams": 3}, {"do_sample": True, "seed": i})[i % 3]
        question = f"{QUESTIONS[i % len(QUESTIONS)]} {i // 7}"
        engine.generate(question, n_docs=N_DOCS[i % len(N_DOCS)], max_new_tokens=4 + i % 9, **settings)
        if (i + 1) % EVERY == 0:
            between.append(anonymous_megabytes())
    report = {"import_s": imported - START, "ready_s": ready - START, "ready_mb": ready_mb}
    print(json.dumps({**report, "between_mb": between, "end_mb": anonymous_megabytes()}))


if __name__ == "__main__":
    main()
