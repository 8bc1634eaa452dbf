"""``rag-infer index backup``, ``export`` and ``import-vectors``: knowledge bases as files, and out of them."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rag_infer.cli.options import show_place
from rag_infer.cli.progress import Progress

Result = tuple[dict[str, Any], list[str]]
AddVerb = Callable[[str, Callable[[argparse.Namespace], Result], str, str], argparse.ArgumentParser]


def configure_files(add_verb: AddVerb) -> argparse.ArgumentParser:
    """Declare the verbs; returns the one that needs a bundle, to be given its options."""
    backup = add_verb(
        "backup",
        _backup,
        "copy a knowledge base to a folder, while others go on writing to it",
        "backup kb/ kb-copy/",
    )
    backup.add_argument("out", type=Path, metavar="OUT", help="folder to make; must not exist, or be empty")
    export = add_verb(
        "export",
        _export,
        "write passages as JSON lines, or as a Hugging Face datasets folder",
        "export kb/ passages.jsonl.gz --embeddings",
    )
    export.add_argument("out", type=Path, metavar="OUT", help="file (.jsonl, .jsonl.gz) or folder to make")
    export.add_argument("--format", choices=("jsonl", "dataset"), default="jsonl", help="default: jsonl")
    export.add_argument("--embeddings", action="store_true", help="write the vectors into the JSON lines too")
    vectors = add_verb(
        "import-vectors",
        _import_vectors,
        "add passages with vectors that were made elsewhere",
        "import-vectors kb/ wikipedia_passages_0.pkl --passages psgs_w100.tsv --bundle bundle/",
    )
    vectors.add_argument(
        "vectors",
        nargs="+",
        type=Path,
        metavar="VECTORS",
        help="DPR's pickles (read as data, never loaded), .npy files, or datasets folders",
    )
    vectors.add_argument(
        "--passages", nargs="+", type=Path, default=[], help="their texts: .jsonl, .tsv, .parquet"
    )
    vectors.add_argument(
        "--ids", type=Path, help="ids of a .npy file's rows, one a line (default: as the passages)"
    )
    vectors.add_argument("--index", choices=("auto", "exact", "hnsw"), help="kind of index (default: auto)")
    return vectors


def _backup(arguments: argparse.Namespace) -> Result:
    from rag_infer.knowledge import KnowledgeBase

    # The copy is checked: nothing need be verified twice.
    with KnowledgeBase.open(arguments.kb, threads=arguments.threads, verify="never") as knowledge_base:
        report = knowledge_base.backup(arguments.out)
    line = f"{arguments.out}: {report.passages} passages of revision {report.revision}, {report.bytes:,} bytes, checked"
    return asdict(report), [line]


def _export(arguments: argparse.Namespace) -> Result:
    from rag_infer.knowledge import KnowledgeBase

    if arguments.embeddings and arguments.format == "dataset":
        raise ValueError("--embeddings is for JSON lines: a datasets folder always has them")
    with KnowledgeBase.open(arguments.kb, threads=arguments.threads) as knowledge_base:
        if arguments.format == "dataset":
            passages = knowledge_base.export_dataset(arguments.out)
        else:
            passages = knowledge_base.export_jsonl(arguments.out, embeddings=arguments.embeddings)
    return {"passages": passages, "out": str(arguments.out)}, [f"{arguments.out}: {passages} passages"]


def _import_vectors(arguments: argparse.Namespace) -> Result:
    from rag_infer.cli.index_build import open_or_create, renew_index
    from rag_infer.knowledge.importers import Corpus
    from rag_infer.knowledge.vector_import import VectorImport, check_sources

    started = time.monotonic()
    # Before a knowledge base is made for them.
    check_sources(arguments.vectors, texts=bool(arguments.passages), ids=arguments.ids)
    counts: dict[str, Any] = {"added": 0, "replaced": 0, "unchanged": 0, "duplicates": 0}
    with (
        Corpus(arguments.passages) as corpus,
        open_or_create(arguments) as knowledge_base,
        knowledge_base.writing(),
        contextlib.closing(
            VectorImport(
                arguments.vectors,
                dim=knowledge_base.settings.dim,
                passages=corpus if arguments.passages else None,
                ids=arguments.ids,
            )
        ) as batches,
        Progress(None, "vectors") as progress,
    ):
        for batch in batches:
            done = knowledge_base.upsert(batch.passages or [], batch.vectors)
            for name, number in done._asdict().items():
                counts[name] += number
            progress.advance(len(batch.vectors))
        renew_index(knowledge_base, arguments)
        counts |= {
            "without_vector": batches.without_vector,
            "passages": len(knowledge_base),
            "seconds": round(time.monotonic() - started, 1),
        }
    done_words = ", ".join(f"{counts[name]} {name}" for name in ("added", "replaced", "unchanged"))
    lines = [
        f"{show_place(arguments.kb)}: {counts['passages']} passages ({done_words}) in {counts['seconds']} s"
    ]
    if counts["without_vector"]:
        lines.append(f"{counts['without_vector']} passages have no vector and were left out")
    return counts, lines
