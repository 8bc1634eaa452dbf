"""``rag-infer verify``: a bundle's parity report again."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rag_infer.cli.export import add_checkpoint_options, load_export
from rag_infer.errors import RagInferError
from rag_infer.verify import Check, verify_bundle

HELP = "check a bundle's files, and its graphs against PyTorch or, without it, against stored outputs"
EXAMPLE = """rag-infer verify bundle/
  rag-infer verify bundle/ --question-encoder Q --passage-encoder P --generator G"""

STORED_ONLY = "--stored-only"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", type=Path, metavar="OUT", help="the bundle")
    add_checkpoint_options(parser)
    parser.add_argument(
        STORED_ONLY, action="store_true", help="do not use PyTorch, even where it is installed"
    )


def run(arguments: argparse.Namespace) -> int:
    """Check and print; status 1 where something is not as it should be."""
    checks = _checks(arguments)
    passed = all(check.passed for check in checks)
    if arguments.json:
        print(json.dumps({"passed": passed, "checks": [_plain(check) for check in checks]}))
    else:
        for check in checks:
            _show(check)
    return 0 if passed else 1


def _checks(arguments: argparse.Namespace) -> list[Check]:
    names = ("rag", "question_encoder", "passage_encoder", "text_encoder", "image_encoder", "generator")
    checkpoints = {name: getattr(arguments, name) for name in names}
    named = [name for name, value in checkpoints.items() if value]
    if arguments.stored_only and named:
        raise ValueError(
            f"{STORED_ONLY} compares with no checkpoint, but --{named[0].replace('_', '-')} is given"
        )
    if arguments.stored_only or (not named and find_spec("torch") is None):
        return verify_bundle(arguments.bundle)
    try:
        export = load_export()
    except RagInferError:
        if named:
            raise
        return verify_bundle(arguments.bundle)
    found: list[Check] = export.reverify_bundle(arguments.bundle, **checkpoints)
    return found


def _plain(check: Check) -> dict[str, Any]:
    """For JSON, which has no word for what is not a number."""
    figures = {name: value if math.isfinite(value) else None for name, value in check.figures.items()}
    return {**asdict(check), "figures": figures}


def _show(check: Check) -> None:
    verdict = "ok  " if check.passed else "FAIL"
    figures = [
        f"{name} {value:.2g} (limit {check.limits[name]:.2g})"
        if name in check.limits
        else f"{value:.0f} {name}"
        for name, value in check.figures.items()
    ]
    print(f"{verdict} {check.name:<17} against {check.against}: {', '.join(figures)}")
