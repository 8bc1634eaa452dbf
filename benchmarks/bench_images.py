"""How many questions about easy-VQA's images are answered rightly? What `make demo-images` measures, as a record."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.options import positive
from benchmarks.report import machine
from benchmarks.script import script
from rag_infer.cli.defaults import cache_folder
from rag_infer.export.demo import images
from rag_infer.session import available_threads

SEED = 0  # what `images.prepare` trains with


def tables(report: Mapping[str, Any]) -> list[dict[str, float]]:
    """The demonstration's report as rows of names and numbers: shares in percent, numbers of questions as they are."""
    answers = {f"right, %: {name}": percent(share) for name, share in report["answers"].items()}
    found = [
        {
            "test questions": report["questions for fusions"],
            **{
                f"{measure}, %: {name}": percent(shares[measure])
                for name, shares in report["fusions"].items()
            },
        }
        for measure in ("right", "first passage right")
    ]
    recalls = {
        f"recall@{k}, %: {name}": percent(share)
        for name, by_k in report["recall"].items()
        for k, share in by_k.items()
    }
    return [{"test questions": report["questions"], **answers}, *found, *([recalls] if recalls else [])]


def percent(share: float) -> float:
    """A share of 1 as hundredths, to two places."""
    return round(100 * share, 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark: train, export and index where that is not done yet, then answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=positive, metavar="N", help="answer only so many test questions")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
    folder = cache_folder() / "demo-images"
    images.prepare(folder)
    results = tables(images.report(folder, count=arguments.questions))
    record = {"benchmark": "images", "results": results, "seed": SEED, "threads": available_threads()}
    print(json.dumps({**record, **machine()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
