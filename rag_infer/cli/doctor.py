"""``rag-infer doctor``: what is installed, what the machine can do, and what is wrong."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from rag_infer.cli.defaults import cache_folder
from rag_infer.cli.options import place, show_place
from rag_infer.errors import BundleError, RagInferError
from rag_infer.version import __version__

HELP = "show versions, processor, providers and cache, and what is wrong with a bundle or knowledge base"
EXAMPLE = "rag-infer doctor --bundle bundle/ --kb kb/"

RUNTIME_PACKAGES = ("numpy", "onnxruntime-gpu", "onnxruntime", "tokenizers", "hnswlib")
EXPORT_PACKAGES = ("torch", "transformers", "optimum", "optimum-onnx", "onnx")

Place = TypeVar("Place", Path, str | Path)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--bundle", type=Path, help="a bundle to check")
    parser.add_argument("--kb", type=place, help="a knowledge base to check: a folder or an address")


def run(arguments: argparse.Namespace) -> int:
    """Look and print; status 1 where something is wrong."""
    facts = _facts()
    problems = _environment_problems(facts)
    if arguments.bundle:
        facts["bundle"] = _examine("bundle", arguments.bundle, _bundle_facts, problems)
    if arguments.kb:
        look = partial(_knowledge_base_facts, bundle=arguments.bundle)
        facts["knowledge base"] = _examine("knowledge base", arguments.kb, look, problems)
    if arguments.json:
        print(json.dumps({**facts, "problems": problems}))
    else:
        for name, value in facts.items():
            print(f"{name:<16} {_line(value)}")
        for problem in problems:
            print(f"problem: {problem}")
        print("nothing is wrong" if not problems else f"{len(problems)} problem(s)")
    return 1 if problems else 0


def _facts() -> dict[str, Any]:
    import onnxruntime

    from rag_infer import _kernels
    from rag_infer.session import available_threads

    return {
        "rag_infer": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "runtime": _versions(RUNTIME_PACKAGES),
        "export": _versions(EXPORT_PACKAGES) or "not installed",
        "kernels": f"{_kernels.instruction_level()} (of {', '.join(_kernels.available_levels())})",
        "int8 products": "VNNI" if _kernels.has_vnni() else "without VNNI",
        "providers": onnxruntime.get_available_providers(),
        "cuda": _cuda(),
        "threads": available_threads(),
        "cache": str(cache_folder()),
    }


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cuda() -> str:
    """Whether a CUDA session can really be made: the list of providers does not tell."""
    from rag_infer.errors import DeviceError
    from rag_infer.session import check_device

    try:
        check_device("cuda")
    except DeviceError as error:
        return f"not usable: {error}"
    return "usable"


def _environment_problems(facts: dict[str, Any]) -> list[str]:
    runtime = facts["runtime"]
    if "onnxruntime" in runtime and "onnxruntime-gpu" in runtime:
        return ["onnxruntime and onnxruntime-gpu are both installed and overwrite each other: uninstall one"]
    return []


def _examine(
    kind: str, path: Place, look: Callable[[Place], dict[str, Any]], problems: list[str]
) -> dict[str, Any]:
    try:
        return look(path)
    except (RagInferError, OSError) as error:
        problems.append(f"{kind}: {error}")
        return {"path": show_place(path)}


def _bundle_facts(path: Path) -> dict[str, Any]:
    from rag_infer.bundle import Bundle
    from rag_infer.verify import verify_bundle

    bundle = Bundle.load(path)
    failed = [check for check in verify_bundle(path) if not check.passed]
    if failed:
        raise BundleError(
            f"{path}: {failed[0].name} no longer gives its {failed[0].against}: 'rag-infer verify' tells more"
        )
    manifest = bundle.manifest
    parts = [
        n
        for n in ("question_encoder", "passage_encoder", "image_encoder", "generator")
        if getattr(manifest, n) is not None
    ]
    return {
        "path": str(path),
        "precision": manifest.precision,
        "parts": parts,
        "made by": manifest.created_by,
    }


def _knowledge_base_facts(path: str | Path, *, bundle: Path | None) -> dict[str, Any]:
    from rag_infer.bundle import Bundle
    from rag_infer.knowledge import KnowledgeBase

    with KnowledgeBase.open(path) as knowledge_base:
        if bundle is not None:
            knowledge_base.check_bundle(Bundle.load(bundle, check="size"))
        knowledge_base.check()
        return dict(knowledge_base.info())


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_line(v)}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
