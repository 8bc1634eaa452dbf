"""How long does it take to encode passages with MiniLM, against sentence-transformers (PyTorch and ONNX) and fastembed?

The demo's articles (``make models``), real weights. All vectors must point the same way, fp32 and int8 each within
its tolerance, before anything is timed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arena import PEERS_PYTHON, Contender, contest
from benchmarks.checkpoints import cache_folder, convert, demo_bundle, demo_encoder, demo_file, made
from benchmarks.options import positive, timing_parser
from benchmarks.report import BenchmarkError, DifferentAnswersError, print_report
from benchmarks.script import script

MAX_CHARACTERS = 400
# Smallest cosine between vectors of the same passage.
SAME_DIRECTION = {"fp32": 0.9999, "int8": 0.95}


def passages(count: int, seed: int) -> list[str]:
    """Articles drawn from the demo's corpus: title and text, cut so that every contender's limit of tokens holds it.

    Raises:
        MissingModelsError: there is no corpus.
        BenchmarkError: it has fewer articles.
    """
    lines = demo_file("corpus.jsonl").read_text(encoding="utf-8").splitlines()
    if count > len(lines):
        raise BenchmarkError(f"--passages {count}: the demo's corpus has no more than {len(lines)}")
    drawn = np.random.default_rng(seed).permutation(len(lines))[:count]
    records = [json.loads(lines[i]) for i in drawn]
    return [f"{record['title']} {record['text']}"[:MAX_CHARACTERS] for record in records]


def exported(source: Path) -> Path:
    """Optimum's ONNX export of the same weights, for those that run ONNX."""

    def write(folder: Path) -> None:
        command = [str(Path(sys.executable).parent / "optimum-cli"), "export", "onnx"]
        command += ["--model", str(source), "--task", "feature-extraction", str(folder)]
        convert(command)

    return made(cache_folder() / "bench" / "minilm-optimum", write)


def check(answers: dict[str, Any]) -> None:
    """Raise unless all vectors agree with the first contender's."""
    first, *others = answers
    expected = np.array(answers[first])
    for name in others:
        found = np.array(answers[name])
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        cosine = float(((found * expected).sum(axis=1) / lengths).min())
        if cosine < SAME_DIRECTION["int8" if "int8" in name else "fp32"]:
            raise DifferentAnswersError(f"{name} differs from {first}: cosine {cosine:.4f}")


def peers(common: dict[str, Any], source: Path) -> list[Contender]:
    """The contenders of the peers' environment, the one to beat first."""
    graph = str(exported(source))
    torch = {**common, "model": str(source), "backend": "torch"}
    onnx = {**common, "model": graph, "backend": "onnx"}
    return [
        Contender("sentence-transformers", "encode_sentence_transformers", torch, peer=True),
        Contender("sentence-transformers ONNX", "encode_sentence_transformers", onnx, peer=True),
        Contender("fastembed", "encode_fastembed", {**common, "model": graph}, peer=True),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = timing_parser(__doc__, repeats=3)
    parser.add_argument("--passages", type=positive, default=400)
    arguments = parser.parse_args(argv)
    source = demo_encoder()
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts.json"
        texts.write_text(json.dumps(passages(arguments.passages, arguments.seed)), encoding="utf-8")
        common = {"texts": str(texts), "threads": arguments.threads}
        contenders = [
            Contender(
                f"rag_infer {precision}",
                "encode_rag_infer",
                {**common, "bundle": str(demo_bundle(precision))},
            )
            for precision in ("fp32", "int8")
        ]
        if PEERS_PYTHON.exists():
            torch, *others = peers(common, source)
            contenders = [torch, *contenders, *others]
        comparison, answers = contest(f"MiniLM, {arguments.passages} passages", contenders, arguments.repeats)
    check(answers)
    print_report(
        "encode", [comparison], seed=arguments.seed, threads=arguments.threads, chart=arguments.chart
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
