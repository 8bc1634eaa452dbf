"""What does the guard around hnswlib cost? Raw `knn_query` against a knowledge base's own search for rows.

Both search one and the same graph with the same ef. "guarded" is what a knowledge base does before it fetches texts:
the arguments are checked, the graph proposes, every proposal is scored by the kernel from the stored vectors and
ranked. The two take turns call by call. Vectors are random, of length 1, around random centres; queries are drawn
likewise.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.options import check_k, positive, timing_parser
from benchmarks.report import Comparison, DifferentAnswersError, interleave, print_report
from benchmarks.script import script
from rag_infer import _kernels
from rag_infer.knowledge.hnsw import INDEX, Snapshot, build_snapshot, load_snapshot
from rag_infer.knowledge.schema import State
from rag_infer.knowledge.similarity import normalised
from rag_infer.knowledge.snapshots import publish
from rag_infer.knowledge.vectors import Segments, Vectors
from rag_infer.knowledge.view import Derived, View, nearest

Rows = NDArray[np.int64]
QUERIES, CENTRES, SPREAD = 200, 1000, 0.08


def clustered(random: np.random.Generator, centres: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Vectors of length 1 around centres of length 1, float32 ``[count, dim]``."""
    chosen = centres[random.integers(0, len(centres), count)]
    noise = random.standard_normal(chosen.shape, dtype=np.float32)
    return normalised(chosen + np.float32(SPREAD) * noise)


def built(folder: Path, data: NDArray[np.float32], dim: int, threads: int) -> tuple[Vectors, Snapshot, Any]:
    """The vectors in a file, and their graph twice: guarded and raw."""
    import hnswlib

    segments = Segments(folder, dim=dim, rows_per_segment=len(data))
    segments.append(1, 0, data)
    vectors = segments.map(1, len(data))
    live = np.ones(len(data), dtype=np.bool_)
    name, sha256 = build_snapshot(folder, vectors, live, generation=1, dim=dim, threads=threads)
    publish(folder, name)
    snapshot = load_snapshot(folder, name, sha256, dim=dim)
    raw = hnswlib.Index(space="ip", dim=dim)
    raw.load_index(str(folder / name / INDEX))
    raw.set_ef(snapshot.manifest.ef)
    return vectors, snapshot, raw


def recall(found: Rows, exact: Rows) -> float:
    """Share of the exact rows that were found."""
    return float(np.mean([np.isin(e, f).mean() for e, f in zip(exact, found, strict=True)]))


def in_turn(
    search: Callable[[NDArray[np.float32]], Rows], queries: NDArray[np.float32], size: int
) -> Callable[[], Rows]:
    """A search of the next ``size`` queries at each call, from the first again after the last."""
    pieces = itertools.cycle([queries[at : at + size] for at in range(0, len(queries) - size + 1, size)])
    return lambda: search(next(pieces))


def run(arguments: argparse.Namespace, folder: Path) -> tuple[list[Comparison], dict[str, float]]:
    """Check that both find the same, then time them."""
    random = np.random.default_rng(arguments.seed)
    centres = normalised(random.standard_normal((CENTRES, arguments.dim), dtype=np.float32))
    data = clustered(random, centres, arguments.rows)
    queries = clustered(random, centres, QUERIES)
    k, threads = arguments.k, arguments.threads
    vectors, snapshot, raw = built(folder, data, arguments.dim, threads)
    view = View(State(rows=len(data), passages=len(data)), vectors, None)
    derived = Derived(snapshot)

    def raw_rows(some: NDArray[np.float32]) -> Rows:
        return np.asarray(raw.knn_query(some, k=k, num_threads=threads)[0]).astype(np.int64)

    def guarded_rows(some: NDArray[np.float32]) -> Rows:
        return nearest(view, derived, some, k, threads=threads)[1]

    exact = _kernels.topk(data, queries, k, threads=threads)[1]
    found = {"raw": raw_rows(queries), "guarded": guarded_rows(queries)}
    if not np.array_equal(np.sort(found["raw"], axis=1), np.sort(found["guarded"], axis=1)):
        raise DifferentAnswersError("raw hnswlib and the knowledge base find different rows")
    figures = {f"recall@{k}, {name}": recall(rows, exact) for name, rows in found.items()}
    comparisons = []
    for size in arguments.queries:
        graph = f"M={snapshot.manifest.m}, ef={snapshot.manifest.ef}"
        case = f"{size} queries, {arguments.rows} x {arguments.dim}, k={k}, {graph}"
        contenders = {
            "hnswlib": in_turn(raw_rows, queries, size),
            "rag_infer, guarded": in_turn(guarded_rows, queries, size),
        }
        comparison = interleave(case, contenders, arguments.repeats)
        comparisons.append(comparison)
        for name in contenders:
            figures[f"queries per second, {name}, {size} at once"] = 1e3 * size / comparison.median(name)
    return comparisons, figures


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = timing_parser(__doc__, repeats=400)
    parser.add_argument("--rows", type=positive, default=100_000, help="vectors to search")
    parser.add_argument("--dim", type=positive, default=384, help="their length")
    parser.add_argument(
        "--queries", type=positive, nargs="+", default=[1, 32], help="queries at once, by case"
    )
    parser.add_argument("-k", type=positive, default=10, help="rows to find")
    parser.add_argument("--quick", action="store_true", help="few rows, few repeats: does it run at all")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.rows, arguments.repeats = 2_000, 2
    check_k(parser, arguments, "rows")
    if max(arguments.queries) > QUERIES:
        parser.error(f"argument --queries: {max(arguments.queries)} is more than {QUERIES}")
    with tempfile.TemporaryDirectory() as folder:
        comparisons, figures = run(arguments, Path(folder))
    print_report(
        "hnsw",
        comparisons,
        seed=arguments.seed,
        threads=arguments.threads,
        figures=figures,
        chart=arguments.chart,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
