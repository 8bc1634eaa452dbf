"""How long does an answer take, with everything but retrieval: rag_infer against transformers' RAG classes and, without
any marginalisation, CTranslate2?

Contexts are random tokens, weights random at the true size (see `benchmarks.checkpoints`). In fp32 rag_infer and
transformers must give the same tokens before anything is timed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arena import PEERS_PYTHON, Contender, contest
from benchmarks.checkpoints import GEOMETRIES, VOCABULARY, bundle, checkpoint, converted
from benchmarks.options import add_contexts, positive, timing_parser
from benchmarks.report import Comparison, DifferentAnswersError, print_report
from benchmarks.script import script
from rag_infer.session import check_device

# Those before are special.
FIRST_TOKEN = 4


def write_inputs(
    path: Path, *, n_docs: int, tokens: int, seed: int, questions: int = 1, vocabulary: int = VOCABULARY
) -> None:
    """The questions' contexts."""
    random = np.random.default_rng(seed)
    ids = random.integers(FIRST_TOKEN, vocabulary, (questions * n_docs, tokens))
    doc_scores = np.sort(random.normal(size=(questions, n_docs)).astype(np.float32))[:, ::-1].copy()
    np.savez(path, ids=ids, mask=np.ones_like(ids), doc_scores=doc_scores)


def check(answers: dict[str, Any], ours: str, theirs: str) -> None:
    """Raise `DifferentAnswersError` unless both gave the same tokens, padding included."""
    found, expected = (answers[name]["tokens"] for name in (ours, theirs))
    if found != expected:
        raise DifferentAnswersError(f"{ours} gave {found}, {theirs} {expected}")


def run_case(arguments: argparse.Namespace, folder: Path) -> Comparison:
    """Check and time one case."""
    inputs = folder / "inputs.npz"
    sizes = {"n_docs": arguments.n_docs, "tokens": arguments.context, "questions": arguments.questions}
    write_inputs(inputs, **sizes, seed=arguments.seed)
    contenders = on_cpu(arguments, inputs) if arguments.device == "cpu" else on_gpu(arguments, inputs)
    batch = f"{arguments.questions} questions, " if arguments.questions > 1 else ""
    rows = f"{arguments.n_docs}x{arguments.context}"
    case = f"{arguments.model} {arguments.strategy} {batch}{rows}, {arguments.beams} beams"
    comparison, answers = contest(case, contenders, arguments.repeats)
    check(answers, "rag_infer fp32", "transformers fp32")
    return comparison


def on_cpu(arguments: argparse.Namespace, inputs: Path) -> list[Contender]:
    """PyTorch, rag_infer, and CTranslate2 where its environment is there."""
    settings = _settings(arguments, inputs)
    made = str(checkpoint(arguments.model))
    contenders = [Contender("transformers fp32", "rag_transformers", {**settings, "checkpoint": made})]
    for precision in ("fp32", "int8"):
        given = {**settings, "bundle": str(bundle(arguments.model, precision))}
        contenders.append(Contender(f"rag_infer {precision}", "rag_infer_generator", given))
    if PEERS_PYTHON.exists() and arguments.strategy == "rag-token":
        for kind in ("float32", "int8"):
            peer = {"model": str(converted(arguments.model)), "compute_type": kind}
            peer |= {"inputs": str(inputs), "threads": arguments.threads}
            peer |= {"num_beams": arguments.beams, "tokens": arguments.tokens}
            contenders.append(Contender(f"CTranslate2 {kind}", "rag_ctranslate2", peer, peer=True))
    return contenders


def on_gpu(arguments: argparse.Namespace, inputs: Path) -> list[Contender]:
    """PyTorch as it is, in float16 and compiled, and rag_infer, all on the same device."""
    settings = {**_settings(arguments, inputs), "device": arguments.device}
    torch = {**settings, "checkpoint": str(checkpoint(arguments.model))}
    half = {**torch, "dtype": "float16"}
    contenders = [
        Contender("transformers fp32", "rag_transformers", torch),
        Contender("transformers fp16", "rag_transformers", half),
        Contender("transformers fp16, compiled", "rag_transformers", {**half, "compile": True}),
    ]
    for precision in ("fp32", "fp16"):
        given = {**settings, "bundle": str(bundle(arguments.model, precision))}
        contenders.append(Contender(f"rag_infer {precision}", "rag_infer_generator", given))
    return contenders


def _settings(arguments: argparse.Namespace, inputs: Path) -> dict[str, Any]:
    length = arguments.tokens + 1  # the start token counts
    generation = {"num_beams": arguments.beams, "min_length": length, "max_length": length}
    return {
        "inputs": str(inputs),
        "threads": arguments.threads,
        "generation": {**generation, "strategy": arguments.strategy},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = timing_parser(__doc__, repeats=5)
    add_contexts(parser)
    parser.add_argument("--model", choices=sorted(GEOMETRIES), default="bart-base")
    parser.add_argument("--strategy", choices=["rag-token", "rag-sequence"], default="rag-token")
    parser.add_argument("--beams", type=positive, default=4)
    parser.add_argument("--tokens", type=positive, default=20, help="tokens to generate")
    parser.add_argument("--questions", type=positive, default=1, help="how many at once")
    parser.add_argument("--device", default="cpu", help='"cpu" or "cuda"; default %(default)s')
    arguments = parser.parse_args(argv)
    check_device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        comparison = run_case(arguments, Path(folder))
    print_report("rag", [comparison], seed=arguments.seed, threads=arguments.threads, chart=arguments.chart)
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
