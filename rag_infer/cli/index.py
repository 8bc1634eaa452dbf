"""``rag-infer index``: build, change, look at and mend a knowledge base."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_infer.cli.defaults import default_bundle
from rag_infer.cli.index_build import add_build_options, build_or_add
from rag_infer.cli.index_files import configure_files
from rag_infer.cli.options import add_shared_options, place, show_place

if TYPE_CHECKING:
    from rag_infer.knowledge import KnowledgeBase

HELP = "build, change, look at and check a knowledge base"
EXAMPLE = "rag-infer index build kb/ corpus.jsonl --bundle bundle/"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs below ``index`` and their arguments."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    build = _verb(
        verbs,
        "build",
        build_or_add,
        "make a knowledge base of corpus files, or finish one begun before",
        "build kb/ documents.jsonl --chunk-size 256 --bundle bundle/",
    )
    build.add_argument("--index", choices=("auto", "exact", "hnsw"), help="kind of index (default: auto)")
    build.add_argument(
        "--scan",
        choices=("auto", "float32", "float16", "int8"),
        help="what exact search reads (default: auto)",
    )
    build.add_argument("--min-recall", type=float, help="refuse an HNSW index below (default: 0.95)")
    build.add_argument(
        "--queries",
        type=Path,
        help="questions to measure recall with, .jsonl or .txt (default: stored vectors)",
    )
    add = _verb(
        verbs,
        "add",
        build_or_add,
        "add passages; those with a known id and other contents are replaced",
        'add kb/ --image cat.png --text "a cat" --bundle bundle/',
    )
    for verb in (build, add):
        add_build_options(verb)
    delete = _verb(verbs, "delete", _delete, "delete passages", "delete kb/ p1 p2")
    delete.add_argument("ids", nargs="+", metavar="ID", help="ids of passages")
    _verb(verbs, "info", _info, "show what is in a knowledge base", "info kb/")
    check = _verb(
        verbs,
        "check",
        _check,
        "compare everything with its checksum",
        "check kb/ --repair --bundle bundle/",
    )
    check.add_argument("--repair", action="store_true", help="encode damaged vectors again, renew the index")
    _verb(
        verbs,
        "compact",
        _compact,
        "give back the space of replaced and deleted passages",
        "compact kb/",
    )
    vectors = configure_files(partial(_verb, verbs))
    for verb in (build, add, check, vectors):
        verb.add_argument("--bundle", type=Path, help="the model bundle (default: the demo's)")
        verb.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb and print its result."""
    result, lines = arguments.run_index(arguments)
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print("\n".join(lines))
    return 0


def _verb(verbs: Any, name: str, function: Any, about: str, example: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=about,
        description=about,
        epilog=f"example:\n  rag-infer index {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(run_index=function, verb=name, index=None, scan=None, min_recall=None, queries=None)
    verb.add_argument("kb", type=place, metavar="KB", help="folder or address of the knowledge base")
    verb.add_argument("--threads", type=int, help="threads (default: the processors it may run on)")
    # Without defaults of their own: they would undo what was said before the verb.
    add_shared_options(verb, default=argparse.SUPPRESS)
    return verb


def _delete(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    with _open(arguments) as knowledge_base:
        deleted = knowledge_base.delete(arguments.ids)
        left = len(knowledge_base)
    unknown = [i for i in dict.fromkeys(arguments.ids) if i not in deleted]
    lines = [f"deleted {len(deleted)} passages, {left} left"]
    lines += [f"unknown id: {i}" for i in unknown]
    return {"deleted": deleted, "unknown": unknown, "passages": left}, lines


def _info(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    with _open(arguments) as knowledge_base:
        info = knowledge_base.info()
    lines = []
    for name, value in info.items():
        shown = ", ".join(f"{k} {v:,}" for k, v in value.items()) if isinstance(value, dict) else value
        lines.append(f"{name:<17} {'-' if shown is None else shown}")
    return info, lines


def _check(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    from rag_infer.knowledge import KnowledgeBase

    if arguments.repair:
        bundle = arguments.bundle or default_bundle()
        report = KnowledgeBase.repair(
            arguments.kb, bundle=bundle, device=arguments.device, threads=arguments.threads
        )
    else:
        # Not beside a verification that reads the same.
        with KnowledgeBase.open(arguments.kb, threads=arguments.threads, verify="never") as knowledge_base:
            report = knowledge_base.check()
    line = (
        f"{show_place(arguments.kb)}: {report.passages} passages, "
        f"{report.rows} vectors in {report.blocks} blocks: all right"
    )
    mended = [f"encoded {report.repaired} vectors again"] if report.repaired else []
    return asdict(report), [*mended, line]


def _compact(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    with _open(arguments) as knowledge_base:
        before = sum(knowledge_base.info()["bytes"].values())
        knowledge_base.compact()
        after = sum(knowledge_base.info()["bytes"].values())
    return {"bytes_before": before, "bytes_after": after}, [
        f"{show_place(arguments.kb)}: {before:,} bytes, now {after:,}"
    ]


def _open(arguments: argparse.Namespace) -> KnowledgeBase:
    from rag_infer.knowledge import KnowledgeBase

    return KnowledgeBase.open(arguments.kb, threads=arguments.threads)
