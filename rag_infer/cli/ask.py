"""``rag-infer ask``: answer a question."""

from __future__ import annotations

import argparse
import json

from rag_infer.cli.options import (
    add_generation_options,
    add_image_option,
    add_model_options,
    add_search_options,
    add_where_option,
    bundle_path,
    generation_settings,
    knowledge_base_path,
    query,
    search_config,
    where,
)

HELP = "answer a question from a knowledge base"
EXAMPLE = """rag-infer ask "Who discovered penicillin?" --bundle bundle/ --kb kb/ --explain
  rag-infer ask "Who painted it?" --where topic=Arts --where '{"year": {"$gte": 1900}}'
  rag-infer ask "what color is it?" --image photo.png --fusion weighted_average"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("question", nargs="*", help="the question, with or without quotes")
    parser.add_argument(
        "--explain", action="store_true", help="show the passages and where each token came from"
    )
    add_model_options(parser)
    add_generation_options(parser)
    add_where_option(parser)
    add_search_options(parser)
    add_image_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Answer and print."""
    from rag_infer.cli.show import show_answer
    from rag_infer.engine import RagEngine

    question = query(arguments, " ".join(arguments.question))
    conditions, config = where(arguments), search_config(arguments)
    with RagEngine.from_pretrained(
        bundle_path(arguments),
        knowledge_base=knowledge_base_path(arguments),
        device=arguments.device,
        threads=arguments.threads,
    ) as engine:
        answer = engine.generate(
            question,
            n_docs=arguments.n_docs,
            where=conditions,
            search=config,
            **generation_settings(arguments),
        )
    if arguments.json:
        print(json.dumps(answer.to_dict(), ensure_ascii=False))
    else:
        show_answer(answer, explain=arguments.explain)
    return 0
