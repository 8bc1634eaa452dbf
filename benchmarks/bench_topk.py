"""How long does exact search over float32 vectors take, against a matrix product and `numpy.argpartition`?

"int8, certified" is `_kernels.topk_int8`, which reads the vectors as int8 and gives the same result bit for bit.

numpy's product runs on as many threads as its BLAS chooses (OPENBLAS_NUM_THREADS), the kernel on ``--threads``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.options import add_search_sizes, check_k, timing_parser
from benchmarks.report import Comparison, check_close, interleave, print_report
from benchmarks.script import script
from rag_infer import _kernels

# Scores are sums of about 400 products near 1, each side rounding in its own order.
SCORE_TOLERANCE = 1e-4

Quantised = tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def numpy_topk(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The usual way: all scores, then the k largest, then those in order."""
    scores = queries @ vectors.T
    rows = np.argpartition(scores, -k, axis=1)[:, -k:]
    best = np.take_along_axis(scores, rows, axis=1)
    order = np.argsort(-best, axis=1)
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)


def check(
    quantised: Quantised, vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, threads: int
) -> None:
    """Raise `DifferentAnswersError` unless all find the same scores, both kernels the same to the last bit."""
    found, rows = _kernels.topk(vectors, queries, k, threads=threads)
    expected, _ = numpy_topk(vectors, queries, k)
    check_close("_kernels.topk", found, expected, tolerance=SCORE_TOLERANCE)
    certified, certified_rows, _ = _kernels.topk_int8(*quantised, vectors, queries, k, threads=threads)
    check_close("topk_int8's scores", certified, found)
    check_close("topk_int8's rows", certified_rows, rows)


def compare(
    quantised: Quantised,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    threads: int,
    repeats: int,
) -> Comparison:
    """Check, then time."""
    check(quantised, vectors, queries, k, threads)
    rows, dim = vectors.shape
    contenders = {
        "numpy": lambda: numpy_topk(vectors, queries, k),
        "_kernels.topk": lambda: _kernels.topk(vectors, queries, k, threads=threads),
        "int8, certified": lambda: _kernels.topk_int8(*quantised, vectors, queries, k, threads=threads),
    }
    return interleave(f"{len(queries)} queries, {rows} x {dim}, k={k}", contenders, repeats, pause_s=0.1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = timing_parser(__doc__, repeats=11)
    add_search_sizes(parser)
    parser.add_argument("--quick", action="store_true", help="few rows, few repeats: does it run at all")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.rows, arguments.repeats = 2_000, 2
    check_k(parser, arguments, "rows")
    random = np.random.default_rng(arguments.seed)
    vectors = random.standard_normal((arguments.rows, arguments.dim), dtype=np.float32)
    quantised = _kernels.quantise_rows(vectors, threads=arguments.threads)
    comparisons = [
        compare(
            quantised,
            vectors,
            random.standard_normal((count, arguments.dim), dtype=np.float32),
            arguments.k,
            arguments.threads,
            arguments.repeats,
        )
        for count in arguments.queries
    ]
    print_report("topk", comparisons, seed=arguments.seed, threads=arguments.threads, chart=arguments.chart)
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
