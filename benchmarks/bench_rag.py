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

# Those before are special.
FIRST_TOKEN = 4


def write_inputs(path: Path, *, n_docs: int, tokens: int, seed: int, vocabulary: int = VOCABULARY) -> None:
    """One question's contexts."""
    random = np.random.default_rng(seed)
    ids = random.integers(FIRST_TOKEN, vocabulary, (n_docs, tokens))
    doc_scores = np.sort(random.normal(size=(1, n_docs)).astype(np.float32))[:, ::-1].copy()
    np.savez(path, ids=ids, mask=np.ones_like(ids), doc_scores=doc_scores)


def check(answers: dict[str, Any], ours: str, theirs: str) -> None:
    """Raise `DifferentAnswersError` unless both gave the same tokens, padding included."""
    found, expected = (answers[name]["tokens"] for name in (ours, theirs))
    if found != expected:
        raise DifferentAnswersError(f"{ours} gave {found}, {theirs} {expected}")


def run_case(arguments: argparse.Namespace, folder: Path) -> Comparison:
    """Check and time one case."""
    inputs = folder / "inputs.npz"
    write_inputs(inputs, n_docs=arguments.n_docs, tokens=arguments.context, seed=arguments.seed)
    tokens, beams = arguments.tokens, arguments.beams
    generation = {"num_beams": beams, "min_length": tokens + 1, "max_length": tokens + 1}
    common = {"inputs": str(inputs), "threads": arguments.threads}
    settings = {**common, "generation": {**generation, "strategy": arguments.strategy}}
    made = str(checkpoint(arguments.model))
    contenders = [Contender("transformers fp32", "rag_transformers", {**settings, "checkpoint": made})]
    for precision in ("fp32", "int8"):
        given = {**settings, "bundle": str(bundle(arguments.model, precision))}
        contenders.append(Contender(f"rag_infer {precision}", "rag_infer_generator", given))
    if PEERS_PYTHON.exists() and arguments.strategy == "rag-token":
        for kind in ("float32", "int8"):
            peer = {"model": str(converted(arguments.model)), "compute_type": kind, "num_beams": beams}
            peer |= {**common, "tokens": tokens}
            contenders.append(Contender(f"CTranslate2 {kind}", "rag_ctranslate2", peer, peer=True))
    case = f"{arguments.model} {arguments.strategy} {arguments.n_docs}x{arguments.context}, {beams} beams"
    comparison, answers = contest(case, contenders, arguments.repeats)
    check(answers, "rag_infer fp32", "transformers fp32")
    return comparison


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = timing_parser(__doc__, repeats=5)
    add_contexts(parser)
    parser.add_argument("--model", choices=sorted(GEOMETRIES), default="bart-base")
    parser.add_argument("--strategy", choices=["rag-token", "rag-sequence"], default="rag-token")
    parser.add_argument("--beams", type=positive, default=4)
    parser.add_argument("--tokens", type=positive, default=20, help="tokens to generate")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        comparison = run_case(arguments, Path(folder))
    print_report("rag", [comparison], seed=arguments.seed, threads=arguments.threads)
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
