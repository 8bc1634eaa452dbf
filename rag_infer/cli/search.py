"""``rag-infer search``: retrieval alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rag_infer.cli.options import (
    add_image_option,
    add_search_options,
    add_where_option,
    bundle_path,
    knowledge_base_path,
    place,
    query,
    search_config,
    where,
)
from rag_infer.cli.show import shorten

HELP = "find the passages that fit a question best"
EXAMPLE = """rag-infer search kb/ "Who discovered penicillin?" -k 5 --bundle bundle/
  rag-infer search kb/ "penicillin 1928" --mode hybrid --where topic=Medicine
  rag-infer search kb/ --image photo.png --fusion max"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[KB] QUESTION",
        help="the knowledge base (default: the demo's), the question; with --image either may be left out",
    )
    parser.add_argument("-k", type=int, default=5, help="how many passages (default: 5)")
    parser.add_argument("--bundle", type=Path, help="the model bundle (default: the demo's)")
    parser.add_argument("--kb", type=place, help="the knowledge base, where it is not the first argument")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--threads", type=int, help="threads (default: the processors it may run on)")
    add_where_option(parser)
    add_search_options(parser)
    add_image_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search and print."""
    from rag_infer.knowledge import KnowledgeBase

    folder, text = _words(arguments)
    question = query(arguments, text)
    conditions, config = where(arguments), search_config(arguments)
    path = place(folder) if folder else knowledge_base_path(arguments)
    with KnowledgeBase.open(
        path, bundle=bundle_path(arguments), device=arguments.device, threads=arguments.threads
    ) as knowledge_base:
        found = knowledge_base.search(question, k=arguments.k, where=conditions, search=config)
    if arguments.json:
        hits = [
            {
                "id": p.id,
                "title": p.title,
                "text": p.text,
                "metadata": dict(p.metadata),
                "image": p.image.path if p.image else None,
                "score": p.score,
            }
            for p in found
        ]
        print(json.dumps({"question": text, "image": arguments.image, "passages": hits}, ensure_ascii=False))
        return 0
    for rank, passage in enumerate(found, start=1):
        print(f"{rank:>3}  {passage.score:8.4f}  {passage.title}  ({passage.id})")
        print(f"     {shorten(passage.text or passage.image.path, 90)}")
    if not found:
        print("no passage found")
    return 0


def _words(arguments: argparse.Namespace) -> tuple[str, str]:
    """(The knowledge base or "", the question or "").

    Raises:
        ValueError: too few words, or too many.
    """
    from rag_infer.knowledge.backends.opening import exists

    *folder, text = arguments.words or [""]
    if arguments.image and text and not folder and not arguments.kb and exists(place(text)):
        folder, text = [text], ""  # a question in an image needs no words
    if len(folder) > 1 or (folder and arguments.kb) or not (text or arguments.image):
        raise ValueError(f"expected a knowledge base and one question (in quotes), got {arguments.words}")
    return (folder[0] if folder else ""), text
