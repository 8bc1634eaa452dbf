"""How fast are the first token and those after it with SmolLM2-135M: greedy RAG-Token with rag_infer against
onnxruntime-genai and llama.cpp?

These two have no marginalisation: they decode the same rows in one batch, each row for itself, which is less work.
Real weights (``make models`` fetches them) and random contexts. With each row decoded alone, all that compute in fp32
must give the same tokens; int8 and Q8_0 round in ways of their own, so their tokens are not compared. A step is one
token for every row.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.arena import PEERS_PYTHON, Contender, contest
from benchmarks.bench_rag import write_inputs
from benchmarks.checkpoints import demo_bundle, demo_genai, demo_llama_cpp
from benchmarks.options import add_contexts, positive, timing_parser
from benchmarks.report import Comparison, DifferentAnswersError, print_report
from benchmarks.script import script

VOCABULARY = 49152
# These give the same tokens.
EXACT = ("llama.cpp F32", "onnxruntime-genai fp32", "rag_infer fp32")


def line_up(common: dict[str, Any]) -> list[Contender]:
    """The contenders, the one to beat first; without the peers' environment rag_infer alone."""
    contenders = []
    if PEERS_PYTHON.exists():
        for precision in ("F32", "Q8_0"):
            given = {**common, "model": str(demo_llama_cpp(precision)), "precision": precision}
            contenders.append(Contender(f"llama.cpp {precision}", "decode_llama_cpp", given, peer=True))
        for precision in ("fp32", "int8"):
            given = {**common, "model": str(demo_genai(precision))}
            contenders.append(Contender(f"onnxruntime-genai {precision}", "decode_genai", given, peer=True))
    for precision in ("fp32", "int8"):
        given = {**common, "bundle": str(demo_bundle(precision))}
        contenders.append(Contender(f"rag_infer {precision}", "decode_rag_infer", given))
    return contenders


def check(answers: dict[str, Any]) -> None:
    """Raise `DifferentAnswersError` unless all that are exact gave each row the same tokens."""
    *others, ours = (name for name in EXACT if name in answers)
    for name in others:
        found, expected = answers[name]["rows"], answers[ours]["rows"]
        if found != expected:
            raise DifferentAnswersError(f"{name} gave {found}, {ours} {expected}")


def run_cases(arguments: argparse.Namespace, inputs: Path) -> list[Comparison]:
    """Check and time one token and all tokens, in turn: their difference is of the same minutes."""
    common = {"inputs": str(inputs), "threads": arguments.threads}
    cases = {tokens: line_up({**common, "tokens": tokens}) for tokens in (1, arguments.tokens)}
    everyone = [replace(c, name=f"{c.name}, {tokens} out") for tokens, case in cases.items() for c in case]
    together, answers = contest("", everyone, arguments.repeats)
    comparisons = []
    for tokens, case in cases.items():
        own = {c.name: f"{c.name}, {tokens} out" for c in case}
        check({name: answers[long] for name, long in own.items()})
        comparisons.append(
            Comparison(
                f"SmolLM2-135M {arguments.n_docs}x{arguments.context}, {tokens} out",
                {name: together.milliseconds[long] for name, long in own.items()},
                {name: together.anonymous_mb[long] for name, long in own.items()},
                together.versions,
            )
        )
    return comparisons


def steps_per_second(first: Comparison, whole: Comparison, tokens: int) -> dict[str, float]:
    """By contender the steps in a second after the first token; nothing where runs were too uneven to tell.

    Args:
        first: one token.
        whole: all tokens, run by run beside ``first``.
        tokens: their number.
    """
    rates = {}
    for name, runs in whole.milliseconds.items():
        pairs = zip(runs, first.milliseconds[name], strict=True)
        taken = statistics.median(after - before for after, before in pairs)
        if taken > 0:
            rates[name] = (tokens - 1) * 1e3 / taken
    return rates


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = timing_parser(__doc__, repeats=5)
    add_contexts(parser)
    parser.add_argument("--tokens", type=positive, default=32, help="tokens to generate, at least 2")
    arguments = parser.parse_args(argv)
    if arguments.tokens < 2:
        parser.error("argument --tokens: a rate needs at least 2")
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        write_inputs(
            inputs,
            n_docs=arguments.n_docs,
            tokens=arguments.context,
            seed=arguments.seed,
            vocabulary=VOCABULARY,
        )
        first, whole = run_cases(arguments, inputs)
    rates = steps_per_second(first, whole, arguments.tokens)
    figures = {f"steps per second, {name}": round(rate, 2) for name, rate in rates.items()}
    print_report(
        "decode",
        [first, whole],
        seed=arguments.seed,
        threads=arguments.threads,
        figures=figures,
        chart=arguments.chart,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
