"""How long does exact search take against FAISS's flat index? All must find the same rows."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.arena import Contender, contest
from benchmarks.options import add_search_sizes, check_k, timing_parser
from benchmarks.report import Comparison, DifferentAnswersError, print_report
from benchmarks.script import script


def run_case(arguments: argparse.Namespace, queries: int, folder: Path) -> Comparison:
    """Check and time one number of queries."""
    random = np.random.default_rng(arguments.seed)
    inputs = folder / f"{queries}.npz"
    np.savez(
        inputs,
        vectors=random.standard_normal((arguments.rows, arguments.dim), dtype=np.float32),
        queries=random.standard_normal((queries, arguments.dim), dtype=np.float32),
    )
    given = {"inputs": str(inputs), "k": arguments.k, "threads": arguments.threads}
    contenders = [
        Contender("FAISS Flat", "topk_faiss", given, peer=True),
        Contender("rag_infer float32", "topk_rag_infer", {**given, "int8": False}),
        Contender("rag_infer int8, certified", "topk_rag_infer", {**given, "int8": True}),
    ]
    case = f"{queries} queries, {arguments.rows} x {arguments.dim}, k={arguments.k}"
    comparison, answers = contest(case, contenders, arguments.repeats)
    if any(rows != answers["FAISS Flat"] for rows in answers.values()):
        raise DifferentAnswersError(f"{case}: the rows differ")
    return comparison


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = timing_parser(__doc__, repeats=11)
    add_search_sizes(parser)
    arguments = parser.parse_args(argv)
    check_k(parser, arguments, "rows")
    with tempfile.TemporaryDirectory() as folder:
        comparisons = [run_case(arguments, queries, Path(folder)) for queries in arguments.queries]
    print_report("flat", comparisons, seed=arguments.seed, threads=arguments.threads, chart=arguments.chart)
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
