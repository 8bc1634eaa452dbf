"""Where does the time of an answer go, and how far is it from what the machine can do?

ONNX Runtime's own profile of a RAG-Token answer, summed by operator, with the multiply-adds of its products. Beside it
the most that was measured here: of multiply-adds a large product in NumPy, of bytes a pass over vectors by the search
kernel. Profiling costs a little: compare shares, not totals.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_rag import write_inputs
from benchmarks.checkpoints import GEOMETRIES, bundle, demo_bundle
from benchmarks.options import add_contexts, positive, timing_parser
from benchmarks.report import machine
from benchmarks.script import script
from rag_infer import GenerationConfig, _kernels
from rag_infer.generator import Generator

PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger")
# Models that can be profiled: those of `benchmarks.checkpoints`, and the demo's.
DEMO = "smollm2"


@dataclass
class Operator:
    """What an operator cost in all.

    Attributes:
        milliseconds: of all its runs.
        runs: how many.
        gigaflops: of its products, a multiply-add counted as two.
    """

    milliseconds: float = 0.0
    runs: int = 0
    gigaflops: float = 0.0


def by_operator(events: Iterable[dict[str, Any]], *, runs_to_skip: int) -> dict[str, Operator]:
    """Sum a session's profile, without its first runs.

    Args:
        events: ONNX Runtime's.
        runs_to_skip: runs of the session that are warm-up.
    """
    listed = list(events)
    ends = sorted(e["ts"] + e["dur"] for e in listed if e.get("name") == "model_run")
    start = ends[runs_to_skip - 1] if runs_to_skip else -math.inf
    found: dict[str, Operator] = defaultdict(Operator)
    for event in listed:
        if event.get("cat") != "Node" or event["ts"] < start or not event["name"].endswith("_kernel_time"):
            continue
        arguments = event["args"]
        operator = found[arguments["op_name"]]
        operator.milliseconds += event["dur"] / 1e3
        operator.runs += 1
        if arguments["op_name"] in PRODUCTS:
            operator.gigaflops += _flops(arguments) / 1e9
    return dict(found)


def _flops(arguments: dict[str, Any]) -> float:
    """Of a product: two for each element of the output and of the axis that is summed."""
    shapes = [next(iter(shape.values())) for shape in arguments["input_type_shape"]]
    output = next(iter(arguments["output_type_shape"][0].values()))
    return float(2 * math.prod(output) * shapes[0][-1])


def limits(threads: int, seed: int) -> dict[str, float]:
    """The most that this machine does: ``gflops`` and ``gigabytes_per_s``."""
    random = np.random.default_rng(seed)
    a = random.normal(size=(2048, 2048)).astype(np.float32)
    vectors = random.normal(size=(100_000, 768)).astype(np.float32)
    best = {"gflops": 0.0, "gigabytes_per_s": 0.0}
    for _ in range(7):
        start = time.perf_counter()
        a @ a
        best["gflops"] = max(best["gflops"], 2 * 2048**3 / (time.perf_counter() - start) / 1e9)
        time.sleep(0.1)
        start = time.perf_counter()
        _kernels.topk(vectors, vectors[:1], 1, threads=threads)
        rate = vectors.nbytes / (time.perf_counter() - start) / 1e9
        best["gigabytes_per_s"] = max(best["gigabytes_per_s"], rate)
    return {name: round(value, 1) for name, value in best.items()}


def profile(folder: Path, inputs: Path, config: GenerationConfig, threads: int) -> dict[str, Any]:
    """Profile one answer after one to warm up: by graph its operators."""
    import onnxruntime

    made: list[Any] = []
    load = onnxruntime.InferenceSession

    def profiled(path: str, options: Any, **settings: Any) -> Any:
        options.enable_profiling = True
        options.profile_file_prefix = str(inputs.parent / Path(path).stem)
        made.append((Path(path).stem, load(path, options, **settings)))
        return made[-1][1]

    onnxruntime.InferenceSession = profiled
    try:
        generator = Generator.from_pretrained(folder, threads=threads, passage_cache_mb=0)
    finally:
        onnxruntime.InferenceSession = load
    arrays = np.load(inputs)
    given = (arrays["ids"], arrays["mask"], arrays["doc_scores"])
    for _ in range(2):
        start = time.perf_counter()
        generator.generate_from_contexts(*given, config=config)
        elapsed = (time.perf_counter() - start) * 1e3
    graphs = {}
    for name, session in made:
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        runs = sum(e.get("name") == "model_run" for e in events)
        graphs[name] = by_operator(events, runs_to_skip=runs // 2)
    return {"milliseconds": elapsed, "graphs": graphs}


def main(argv: Sequence[str] | None = None) -> int:
    """Profile a generator."""
    parser = timing_parser(__doc__, repeats=1, charted=False)
    add_contexts(parser)
    parser.add_argument("--model", choices=[*sorted(GEOMETRIES), DEMO], default="bart-base")
    parser.add_argument("--precision", choices=["fp32", "int8"], default="fp32")
    parser.add_argument("--beams", type=positive, default=4)
    parser.add_argument("--tokens", type=positive, default=20, help="tokens to generate")
    arguments = parser.parse_args(argv)
    made = demo_bundle if arguments.model == DEMO else lambda p: bundle(arguments.model, p)
    begun = 0 if arguments.model == DEMO else 1
    length = arguments.tokens + begun
    settings = {"max_new_tokens": length} if arguments.model == DEMO else {"max_length": length}
    config = GenerationConfig(num_beams=arguments.beams, min_length=length, **settings)
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        write_inputs(
            inputs, n_docs=arguments.n_docs, tokens=arguments.context, seed=arguments.seed, vocabulary=49152
        )
        found = profile(made(arguments.precision), inputs, config, arguments.threads)
    most = limits(arguments.threads, arguments.seed)
    _print(found, most)
    results = [
        {"graph": graph, "operator": name, **vars(operator)}
        for graph, operators in found["graphs"].items()
        for name, operator in operators.items()
    ]
    about = {"limits": most, "seed": arguments.seed, "threads": arguments.threads, **machine()}
    print(
        json.dumps(
            {"benchmark": "profile", "milliseconds": found["milliseconds"], "results": results, **about}
        )
    )
    return 0


def _print(found: dict[str, Any], most: dict[str, float]) -> None:
    """A table for people: what took 1 % or more."""
    print(f"{'graph':<10} {'operator':<24} {'ms':>9} {'share':>6} {'runs':>6} {'GFLOP':>8} {'GFLOP/s':>8}")
    total = found["milliseconds"]
    for graph, operators in found["graphs"].items():
        for name, operator in sorted(operators.items(), key=lambda item: -item[1].milliseconds):
            share = operator.milliseconds / total
            if share >= 0.01:
                rate = operator.gigaflops / operator.milliseconds * 1e3
                figures = f"{operator.milliseconds:>9.1f} {share:>6.1%} {operator.runs:>6}"
                print(f"{graph:<10} {name:<24} {figures} {operator.gigaflops:>8.2f} {rate:>8.1f}")
    inside = sum(o.milliseconds for operators in found["graphs"].values() for o in operators.values())
    print(f"in operators {inside:.0f} ms of {total:.0f} ms")
    print(f"this machine: {most['gflops']} GFLOP/s, {most['gigabytes_per_s']} GB/s")


if __name__ == "__main__":
    raise SystemExit(script(main))
