"""``rag-infer ask``: answer a question."""

from __future__ import annotations

import argparse
import json

from rag_infer.cli.options import (
    add_generation_options,
    add_model_options,
    add_where_option,
    bundle_path,
    generation_settings,
    knowledge_base_path,
    where,
)

HELP = "answer a question from a knowledge base"
EXAMPLE = 'rag-infer ask "Who discovered penicillin?" --bundle bundle/ --kb kb/ --explain'


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("question", nargs="+", help="the question, or several")
    parser.add_argument(
        "--explain", action="store_true", help="show the passages and where each token came from"
    )
    add_model_options(parser)
    add_generation_options(parser)
    add_where_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Answer and print."""
    from rag_infer.cli.show import show_answer
    from rag_infer.engine import RagEngine

    if any(not q.strip() for q in arguments.question):
        raise ValueError("the question is empty")
    with RagEngine.from_pretrained(
        bundle_path(arguments),
        knowledge_base=knowledge_base_path(arguments),
        device=arguments.device,
        threads=arguments.threads,
    ) as engine:
        answers = engine.generate(
            arguments.question,
            n_docs=arguments.n_docs,
            where=where(arguments),
            **generation_settings(arguments),
        )
    for answer in answers:
        if arguments.json:
            print(json.dumps(answer.to_dict(), ensure_ascii=False))
        elif arguments.explain or len(answers) > 1:
            show_answer(answer, explain=arguments.explain)
        else:
            print(answer.text)
    return 0
