"""How long does greedy RAG-Token over SmolLM2-135M take, with and without what was read of the passages before, against
the same sums in transformers?

Real weights (``make models`` fetches them) and random tokens, passage and question in two pieces. In fp32 all must give
the same tokens before anything is timed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arena import Contender, contest
from benchmarks.checkpoints import demo_bundle, demo_gguf
from benchmarks.options import add_contexts, positive, timing_parser
from benchmarks.report import Comparison, DifferentAnswersError, print_report
from benchmarks.script import script

FIRST_TOKEN, VOCABULARY = 50, 49152
CACHE_MB = 256


def write_inputs(path: Path, *, n_docs: int, passage: int, question: int, seed: int) -> None:
    """One question's prompts in two pieces."""
    random = np.random.default_rng(seed)
    asked = random.integers(FIRST_TOKEN, VOCABULARY, question)
    doc_scores = np.sort(random.normal(size=(1, n_docs)).astype(np.float32))[:, ::-1].copy()
    passages = random.integers(FIRST_TOKEN, VOCABULARY, (n_docs, passage))
    np.savez(path, passages=passages, questions=np.tile(asked, (n_docs, 1)), doc_scores=doc_scores)


def run_case(arguments: argparse.Namespace, tokens: int, folder: Path) -> Comparison:
    """Check and time one case."""
    inputs = folder / "inputs.npz"
    write_inputs(
        inputs,
        n_docs=arguments.n_docs,
        passage=arguments.context - arguments.question,
        question=arguments.question,
        seed=arguments.seed,
    )
    gguf = demo_gguf()
    common: dict[str, Any] = {"inputs": str(inputs), "threads": arguments.threads, "tokens": tokens}
    model = {**common, "checkpoint": str(gguf.parent), "gguf_file": gguf.name}
    contenders = [Contender("transformers fp32", "causal_transformers", model)]
    for precision in ("fp32", "int8"):
        for cache, name in ((0, precision), (CACHE_MB, f"{precision}, passages known")):
            given = {**common, "bundle": str(demo_bundle(precision)), "passage_cache_mb": cache}
            contenders.append(Contender(f"rag_infer {name}", "causal_rag_infer", given))
    case = f"SmolLM2-135M {arguments.n_docs}x{arguments.context}, {tokens} out"
    comparison, answers = contest(case, contenders, arguments.repeats)
    for name in ("rag_infer fp32", "rag_infer fp32, passages known"):
        if answers[name] != answers["transformers fp32"]:
            raise DifferentAnswersError(
                f"{name}: {answers[name]}, transformers: {answers['transformers fp32']}"
            )
    return comparison


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = timing_parser(__doc__, repeats=5)
    add_contexts(parser)
    parser.add_argument("--question", type=positive, default=24, help="tokens of the question among them")
    parser.add_argument(
        "--tokens", type=positive, nargs="+", default=[32, 1], help="tokens to generate, by case"
    )
    arguments = parser.parse_args(argv)
    if arguments.question >= arguments.context:
        parser.error(
            f"argument --question: {arguments.question} leaves no passage in --context, {arguments.context}"
        )
    with tempfile.TemporaryDirectory() as folder:
        comparisons = [run_case(arguments, tokens, Path(folder)) for tokens in arguments.tokens]
    print_report("causal", comparisons, seed=arguments.seed, threads=arguments.threads, chart=arguments.chart)
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
