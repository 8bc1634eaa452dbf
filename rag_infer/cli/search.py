"""``rag-infer search``: retrieval alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rag_infer.cli.options import add_where_option, bundle_path, knowledge_base_path, where
from rag_infer.cli.show import shorten

HELP = "find the passages nearest to a question"
EXAMPLE = 'rag-infer search kb/ "Who discovered penicillin?" -k 5 --bundle bundle/'


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="[KB] QUESTION",
        help="the knowledge base (default: the demo's), the question",
    )
    parser.add_argument("-k", type=int, default=5, help="how many passages (default: 5)")
    parser.add_argument("--bundle", type=Path, help="the model bundle (default: the demo's)")
    parser.add_argument("--kb", type=Path, help="the knowledge base, where it is not the first argument")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--threads", type=int, help="threads (default: the processors it may run on)")
    add_where_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search and print."""
    from rag_infer.knowledge import KnowledgeBase

    *folder, question = arguments.words
    if len(folder) > 1 or (folder and arguments.kb):
        raise ValueError(f"expected a knowledge base and one question (in quotes), got {arguments.words}")
    conditions = where(arguments)
    path = Path(folder[0]) if folder else knowledge_base_path(arguments)
    with KnowledgeBase.open(
        path, bundle=bundle_path(arguments), device=arguments.device, threads=arguments.threads
    ) as knowledge_base:
        found = knowledge_base.search(question, k=arguments.k, where=conditions)
    if arguments.json:
        hits = [
            {"id": p.id, "title": p.title, "text": p.text, "metadata": dict(p.metadata), "score": p.score}
            for p in found
        ]
        print(json.dumps({"question": question, "passages": hits}, ensure_ascii=False))
        return 0
    for rank, passage in enumerate(found, start=1):
        print(
            f"{rank:>3}  {passage.score:8.4f}  {passage.title}  ({passage.id})\n     {shorten(passage.text, 90)}"
        )
    if not found:
        print("no passage found")
    return 0
