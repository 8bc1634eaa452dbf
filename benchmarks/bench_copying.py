"""Would copying from the passages, verified several tokens at a step, make greedy answers faster?

An answer often repeats a passage. So what followed the answer's last tokens in a passage can be a draft of its next
ones: a step then runs the drafted tokens too, and keeps those that RAG-Token chooses itself (prompt lookup; the
verification is that of speculative decoding, Leviathan et al. 2023). The answer is the same, in fewer but wider steps.

Two figures decide: how many tokens a step gives on real questions (counted on the answers that were given, so without
building it), and how much more a wider step costs. Copying pays where the first is larger than the second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.checkpoints import demo_bundle
from benchmarks.options import positive, timing_parser
from benchmarks.report import machine
from benchmarks.script import script
from rag_infer import Generator, KnowledgeBase, RagEngine
from rag_infer.knowledge.importers import Corpus

LONGEST_MATCH = 2
CONTEXT = 200


def draft(answer: Sequence[int], passages: Sequence[Sequence[int]], depth: int) -> list[int]:
    """What followed the answer's last tokens in a passage, the longest match first; at most ``depth`` tokens."""
    for length in range(min(LONGEST_MATCH, len(answer)), 0, -1):
        last = list(answer[-length:])
        for passage in passages:
            for i in range(len(passage) - length):
                if list(passage[i : i + length]) == last:
                    return list(passage[i + length : i + length + depth])
    return []


def steps(answer: Sequence[int], passages: Sequence[Sequence[int]], depth: int) -> int:
    """Steps that an answer takes with drafts of at most ``depth`` tokens."""
    done = count = 0
    while done < len(answer):
        accepted = 0
        for drafted, chosen in zip(draft(answer[:done], passages, depth), answer[done:], strict=False):
            if drafted != chosen:
                break
            accepted += 1
        done += accepted + 1
        count += 1
    return count


def tokens_per_step(arguments: argparse.Namespace, folder: Path) -> dict[int, float]:
    """By depth, over the greedy answers to the first questions."""
    bundle = demo_bundle("fp32")
    with KnowledgeBase.create(folder / "kb", bundle=bundle) as base, Corpus([arguments.corpus]) as corpus:
        base.upsert(list(corpus))
    lines = arguments.questions.read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["text"] for line in lines[:: max(1, len(lines) // arguments.count)]]
    taken, total = dict.fromkeys(arguments.depths, 0), 0
    with RagEngine.from_pretrained(bundle, knowledge_base=folder / "kb", threads=arguments.threads) as engine:
        for question in questions[: arguments.count]:
            answer = engine.generate(question, max_new_tokens=arguments.tokens)
            encode = engine.generator.tokenizer.encode
            tokens, passages = encode(answer.text), [encode(p.text) for p in answer.passages]
            total += len(tokens)
            for depth in arguments.depths:
                taken[depth] += steps(tokens, passages, depth)
    return {depth: round(total / count, 2) for depth, count in taken.items()}


def cost_of_width(arguments: argparse.Namespace, precision: str) -> dict[int, float]:
    """By depth: the time of a step that verifies so many drafted tokens, over that of a plain one; medians."""
    generator = Generator.from_pretrained(
        demo_bundle(precision), threads=arguments.threads, passage_cache_mb=0
    )
    decoder: Any = generator._model.decoder
    random = np.random.default_rng(arguments.seed)
    rows = [random.integers(50, 49152, CONTEXT).tolist() for _ in range(arguments.n_docs)]
    times: dict[int, list[float]] = {depth: [] for depth in (0, *arguments.depths)}
    for _ in range(arguments.repeats):
        for depth, found in times.items():
            state, _ = decoder.prefill((), [rows], reserve=64)
            shape = (arguments.n_docs, depth + 1)
            for turn in range(3):
                start = time.perf_counter()
                decoder.step(state, np.zeros(shape, dtype=np.int64), np.full(shape, 100, dtype=np.int64))
                if turn:  # the first one after a prefill meets cold caches
                    found.append(time.perf_counter() - start)
    plain = statistics.median(times[0])
    return {depth: round(statistics.median(times[depth]) / plain, 2) for depth in arguments.depths}


def main(argv: Sequence[str] | None = None) -> int:
    """Count and time."""
    parser = timing_parser(__doc__, repeats=5, charted=False)
    parser.add_argument("corpus", type=Path, help="JSONL of passages")
    parser.add_argument("questions", type=Path, help='JSONL of questions, each with "text"')
    parser.add_argument("--count", type=positive, default=60, help="questions to ask")
    parser.add_argument("--tokens", type=positive, default=48, help="longest answer")
    parser.add_argument(
        "--depths", type=positive, nargs="+", default=[1, 2, 4], help="drafted tokens, by case"
    )
    parser.add_argument("--n-docs", type=positive, default=5, help="passages of the timed step")
    arguments = parser.parse_args(argv)
    costs = {precision: cost_of_width(arguments, precision) for precision in ("fp32", "int8")}
    with tempfile.TemporaryDirectory() as folder:
        gains = tokens_per_step(arguments, Path(folder))
    print(f"{'drafted':>8} {'tokens per step':>16} {'cost of it, fp32':>17} {'int8':>6}")
    for depth, gain in gains.items():
        print(f"{depth:>8} {gain:>16.2f} {costs['fp32'][depth]:>17.2f} {costs['int8'][depth]:>6.2f}")
    results = [
        {"drafted": d, "tokens_per_step": g, **{f"cost_{p}": c[d] for p, c in costs.items()}}
        for d, g in gains.items()
    ]
    about = {"seed": arguments.seed, "threads": arguments.threads, **machine()}
    print(json.dumps({"benchmark": "copying", "results": results, **about}))
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
