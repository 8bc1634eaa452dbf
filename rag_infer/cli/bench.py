"""``rag-infer bench``: the benchmark suite of a source checkout."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from rag_infer.errors import RagInferError

HELP = "run the benchmarks of a source checkout"
EXAMPLE = "rag-infer bench topk marginalise"
ROOT = Path(__file__).resolve().parent.parent.parent


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; default: the quick ones")
    parser.add_argument("--all", action="store_true", help="the whole suite, about two hours")
    parser.add_argument(
        "--record", action="store_true", help="keep results and charts in benchmarks/results/"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the suite in a process of its own.

    Raises:
        RagInferError: this is an installed package and no checkout.
    """
    if not (ROOT / "benchmarks" / "suite.py").is_file():
        raise RagInferError("the benchmarks are part of the source checkout: run `make bench` there")
    flags = [f"--{name}" for name in ("all", "record", "json", "debug") if getattr(arguments, name)]
    command = [sys.executable, "-m", "benchmarks.suite", *flags, *arguments.names]
    return subprocess.run(command, cwd=ROOT, check=False).returncode
