"""How long does a normalisation of a sum take, as ONNX Runtime's fused operator and as one node for each?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from benchmarks.options import positive, timing_parser
from benchmarks.report import Comparison, check_close, interleave, print_report
from benchmarks.script import script
from benchmarks.small_graph import session
from rag_infer.session import unwanted

LAYERS = 8
EPSILON = 1e-5
TOLERANCE = 1e-4


def sum_and_norm(x: str, y: str) -> list[Any]:
    """An addition and a LayerNormalization."""
    normed = helper.make_node(
        "LayerNormalization", [f"{y}_sum", "weight", "bias"], [y], axis=-1, epsilon=EPSILON
    )
    return [helper.make_node("Add", [x, "other"], [f"{y}_sum"]), normed]


def fused(x: str, y: str) -> list[Any]:
    """Both as one operator, as ONNX Runtime fuses them where it may."""
    inputs = [x, "other", "weight", "bias"]
    return [helper.make_node("SkipLayerNormalization", inputs, [y], domain="com.microsoft", epsilon=EPSILON)]


def layers(make: Callable[[str, str], list[Any]]) -> list[Any]:
    """Several, one after the other."""
    names = ["x", *(f"y{i}" for i in range(1, LAYERS)), "y"]
    return [node for x, y in itertools.pairwise(names) for node in make(x, y)]


def expected(x: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same by NumPy."""
    for _ in range(LAYERS):
        total = (x + other).astype(np.float64)
        total -= total.mean(axis=1, keepdims=True)
        x = (total / np.sqrt(total.var(axis=1, keepdims=True) + EPSILON)).astype(np.float32)
    return x


def run_case(rows: int, width: int, *, threads: int, repeats: int, seed: int) -> Comparison:
    """Check and time one size."""
    x, other = np.random.default_rng(seed).standard_normal((2, rows, width), dtype=np.float32)
    ones, zeros = np.ones(width, dtype=np.float32), np.zeros(width, dtype=np.float32)
    weights = {"other": other, "weight": ones, "bias": zeros}
    runs: dict[str, Callable[[], object]] = {}
    for name, make in {"SkipLayerNormalization": fused, "Add, LayerNormalization": sum_and_norm}.items():
        made = session(layers(make), weights, (width, width), threads, without=unwanted("cpu"))
        found = made.run(None, {"x": x})[0]
        check_close(name, found, expected(x, other), tolerance=TOLERANCE)
        runs[name] = partial(made.run, None, {"x": x})
    return interleave(f"{LAYERS} times {rows} x {width}", runs, repeats)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = timing_parser(__doc__, repeats=30)
    parser.add_argument("--rows", type=positive, nargs="+", default=[20, 1000], help="by case")
    parser.add_argument("--width", type=positive, nargs="+", default=[384, 768], help="by case")
    arguments = parser.parse_args(argv)
    same = {"threads": arguments.threads, "repeats": arguments.repeats, "seed": arguments.seed}
    cases = [run_case(rows, width, **same) for width in arguments.width for rows in arguments.rows]
    print_report("norms", cases, seed=arguments.seed, threads=arguments.threads, chart=arguments.chart)
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
