"""What do ONNX Runtime's products by constant weights gain from eight bits, at the numbers of rows that occur here?

The weights are those of a layer and of the head of BART-base and SmolLM2-135M. Float32, dynamic int8 as exported
bundles have it (`DynamicQuantizeMatMul`, a scale per column, signed weights), the same unsigned, as it is made of that
on processors without VNNI, and `MatMulNBits` with 8-bit weights in blocks of 32. Rows: a step of 5 passages, and of 4
beams each, a question, 5 passages of 200 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.options import positive, timing_parser
from benchmarks.report import Comparison, check_close, interleave, print_report
from benchmarks.script import script
from benchmarks.small_graph import session

# (inputs, outputs): the feed-forward layers of BART-base, and of SmolLM2-135M.
SHAPES = ((768, 3072), (576, 1536))
# Their heads, through which only the rows of a step go.
HEADS = ((768, 50265), (576, 49152))
HEAD_ROWS = 20
BLOCK = 32
# Of the largest product: what eight bits may change.
TOLERANCE = 0.05

Float = NDArray[np.float32]


def contenders(weight: Float, threads: int) -> dict[str, Any]:
    """By name a session for each way to multiply by a weight ``[inputs, outputs]``."""
    from onnx import helper

    inputs, outputs = weight.shape
    scale = np.abs(weight).max(axis=0) / 127
    signed = np.round(weight / scale).astype(np.int8)
    unsigned = (signed.astype(np.int16) + 128).astype(np.uint8)
    blocks = weight.T.reshape(outputs, inputs // BLOCK, BLOCK)
    block_scale = np.abs(blocks).max(axis=2) / 127
    cut = (np.round(blocks / block_scale[..., None]) + 128).astype(np.uint8)
    dynamic = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s", "z"], ["y"], domain="com.microsoft")
    made = {
        "float32": (helper.make_node("MatMul", ["x", "w"], ["y"]), {"w": weight}),
        "dynamic int8": (dynamic, {"w": signed, "s": scale, "z": np.zeros(outputs, dtype=np.int8)}),
        "dynamic uint8": (
            dynamic,
            {"w": unsigned, "s": scale, "z": np.full(outputs, 128, dtype=np.uint8)},
        ),
        "MatMulNBits 8": (
            helper.make_node(
                "MatMulNBits",
                ["x", "w", "s"],
                ["y"],
                domain="com.microsoft",
                K=inputs,
                N=outputs,
                bits=8,
                block_size=BLOCK,
                accuracy_level=4,
            ),
            {"w": cut, "s": block_scale},
        ),
    }
    return {
        name: session([node], tensors, (inputs, outputs), threads) for name, (node, tensors) in made.items()
    }


def run_case(shape: tuple[int, int], rows: int, *, threads: int, repeats: int, seed: int) -> Comparison:
    """Check and time one size."""
    random = np.random.default_rng(seed)
    weight = (random.normal(size=shape) * 0.05).astype(np.float32)
    x = random.normal(size=(rows, shape[0])).astype(np.float32)
    expected = x @ weight
    runs: dict[str, Callable[[], object]] = {}
    for name, made in contenders(weight, threads).items():
        found = made.run(None, {"x": x})[0]
        check_close(name, found, expected, tolerance=TOLERANCE * float(np.abs(expected).max()))
        runs[name] = partial(made.run, None, {"x": x})
    return interleave(f"{rows} x {shape[0]} x {shape[1]}", runs, repeats)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = timing_parser(__doc__, repeats=30)
    parser.add_argument("--rows", type=positive, nargs="+", default=[5, 20, 120, 1000], help="by case")
    arguments = parser.parse_args(argv)
    same = {"threads": arguments.threads, "repeats": arguments.repeats, "seed": arguments.seed}
    sizes = [(shape, rows) for shape in SHAPES for rows in arguments.rows]
    sizes += [(shape, rows) for shape in HEADS for rows in arguments.rows if rows <= HEAD_ROWS]
    cases = [run_case(shape, rows, **same) for shape, rows in sizes]
    print_report("products", cases, seed=arguments.seed, threads=arguments.threads, chart=arguments.chart)
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
