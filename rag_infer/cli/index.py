"""``rag-infer index``: build, change, look at and mend a knowledge base."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_infer.cli.defaults import default_bundle
from rag_infer.cli.progress import Progress

if TYPE_CHECKING:
    from rag_infer.knowledge import KnowledgeBase, Passage
    from rag_infer.knowledge.importers import Corpus

HELP = "build, change, look at and check a knowledge base"
EXAMPLE = "rag-infer index build kb/ corpus.jsonl --bundle bundle/"

BATCH_SIZE = 1024


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs below ``index`` and their arguments."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    build = _verb(verbs, "build", _build, "make a knowledge base of corpus files, or finish one begun before")
    build.add_argument("--index", choices=("auto", "exact", "hnsw"), help="kind of index (default: auto)")
    add = _verb(verbs, "add", _build, "add passages; those with a known id and other contents are replaced")
    for verb in (build, add):
        verb.add_argument("corpus", nargs="+", type=Path, help=".jsonl, .tsv (also .gz) or .parquet files")
        verb.add_argument(
            "--skip-bad-lines", action="store_true", help="count bad lines, do not stop at them"
        )
        verb.add_argument(
            "--batch-size", type=int, default=BATCH_SIZE, help=f"passages per commit (default: {BATCH_SIZE})"
        )
    delete = _verb(verbs, "delete", _delete, "delete passages")
    delete.add_argument("ids", nargs="+", metavar="ID", help="ids of passages")
    _verb(verbs, "info", _info, "show what is in a knowledge base")
    check = _verb(verbs, "check", _check, "compare everything with its checksum")
    check.add_argument("--repair", action="store_true", help="encode damaged vectors again, renew the index")
    _verb(verbs, "compact", _compact, "give back the space of replaced and deleted passages")
    for verb in (build, add, check):
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


def _verb(verbs: Any, name: str, function: Any, about: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=about)
    verb.set_defaults(run_index=function, verb=name, index=None)
    verb.add_argument("kb", type=Path, metavar="KB", help="folder of the knowledge base")
    verb.add_argument("--threads", type=int, help="threads (default: the processors it may run on)")
    # Without defaults of their own: they would undo what was said before the verb.
    for option in ("--json", "--debug"):
        verb.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return verb


def _build(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    from rag_infer.knowledge.importers import Corpus

    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {arguments.batch_size}")
    started = time.monotonic()
    with (
        Corpus(arguments.corpus, skip_bad_lines=arguments.skip_bad_lines) as corpus,
        _open_or_create(arguments) as knowledge_base,
        knowledge_base.writing(),
    ):
        counts = _fill(knowledge_base, corpus, arguments.batch_size)
        _index(knowledge_base, arguments.index)
        counts |= {
            "skipped": dict(corpus.skipped),
            "passages": len(knowledge_base),
            "seconds": round(time.monotonic() - started, 1),
        }
    done = ", ".join(f"{counts[name]} {name}" for name in ("added", "replaced", "unchanged"))
    lines = [f"{arguments.kb}: {counts['passages']} passages ({done}) in {counts['seconds']} s"]
    lines += [f"skipped {number} lines: {reason}" for reason, number in sorted(corpus.skipped.items())]
    return counts, lines


def _open_or_create(arguments: argparse.Namespace) -> KnowledgeBase:
    from rag_infer.errors import KnowledgeBaseError
    from rag_infer.knowledge import KnowledgeBase
    from rag_infer.knowledge.folder import exists

    options = {
        "bundle": arguments.bundle or default_bundle(),
        "device": arguments.device,
        "threads": arguments.threads,
    }
    if arguments.verb == "build" and not exists(arguments.kb):
        try:
            return KnowledgeBase.create(arguments.kb, index=arguments.index or "auto", **options)
        except KnowledgeBaseError:
            if not exists(arguments.kb):  # else another process has just made it
                raise
    return KnowledgeBase.open(arguments.kb, **options)


def _fill(knowledge_base: KnowledgeBase, corpus: Corpus, batch_size: int) -> dict[str, Any]:
    """Upsert a corpus batch by batch. What is there already costs no more than reading it."""
    counts = {"added": 0, "replaced": 0, "unchanged": 0}
    with Progress(corpus.total(), "passages") as progress:
        for batch in _batches(iter(corpus), batch_size):
            done = knowledge_base.upsert(batch)
            for name, number in done._asdict().items():
                counts[name] += number
            progress.advance(len(batch))
    return counts


def _index(knowledge_base: KnowledgeBase, kind: str | None) -> None:
    bar: list[Progress] = []

    def advance(number: int) -> None:
        if not bar:  # most knowledge bases need no index, and then no bar
            bar.append(Progress(len(knowledge_base), "index"))
            bar[0].__enter__()
        bar[0].advance(number)

    try:
        knowledge_base.build_index(kind, on_progress=advance)
    finally:
        for shown in bar:
            shown.__exit__(None, None, None)


def _batches(passages: Iterator[Passage], size: int) -> Iterator[list[Passage]]:
    while batch := list(islice(passages, size)):
        yield batch


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
        with _open(arguments) as knowledge_base:
            report = knowledge_base.check()
    line = f"{arguments.kb}: {report.passages} passages, {report.rows} vectors in {report.blocks} blocks: all right"
    mended = [f"encoded {report.repaired} vectors again"] if report.repaired else []
    return asdict(report), [*mended, line]


def _compact(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    with _open(arguments) as knowledge_base:
        before = sum(knowledge_base.info()["bytes"].values())
        knowledge_base.compact()
        after = sum(knowledge_base.info()["bytes"].values())
    return {"bytes_before": before, "bytes_after": after}, [
        f"{arguments.kb}: {before:,} bytes, now {after:,}"
    ]


def _open(arguments: argparse.Namespace) -> KnowledgeBase:
    from rag_infer.knowledge import KnowledgeBase

    return KnowledgeBase.open(arguments.kb, threads=arguments.threads)
