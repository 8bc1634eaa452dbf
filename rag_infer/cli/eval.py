"""``rag-infer eval``: how good and how fast the answers are, over a question set."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rag_infer.cli.options import (
    add_generation_options,
    add_model_options,
    add_search_options,
    add_where_option,
    bundle_path,
    generation_settings,
    knowledge_base_path,
    search_config,
    where,
)
from rag_infer.cli.progress import Progress

if TYPE_CHECKING:
    from rag_infer.evaluate.run import Evaluation

HELP = "measure hit@k, exact match, F1 and latency over a question set"
EXAMPLE = "rag-infer eval questions.jsonl --bundle bundle/ --kb kb/"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "questions",
        type=Path,
        help="JSON lines with text, image (a path relative to the file) or both, answers (a list), and optionally "
        "passage_id",
    )
    parser.add_argument("--limit", type=int, help="only the first so many questions")
    parser.add_argument("--retrieval-only", action="store_true", help="search, but generate no answers")
    add_model_options(parser)
    add_generation_options(parser)
    add_where_option(parser)
    add_search_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print."""
    from rag_infer.engine import RagEngine
    from rag_infer.evaluate.questions import read_questions
    from rag_infer.evaluate.run import evaluate, evaluate_retrieval

    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {arguments.limit}")
    questions = read_questions(arguments.questions)[: arguments.limit]
    settings, search, conditions = generation_settings(arguments), search_config(arguments), where(arguments)
    if arguments.n_docs is not None:
        settings["n_docs"] = arguments.n_docs
    with (
        RagEngine.from_pretrained(
            bundle_path(arguments),
            knowledge_base=knowledge_base_path(arguments),
            device=arguments.device,
            threads=arguments.threads,
        ) as engine,
        Progress(len(questions), "questions") as progress,
    ):
        if arguments.retrieval_only:
            result = evaluate_retrieval(
                engine, questions, search=search, where=conditions, on_question=progress.advance
            )
        else:
            result = evaluate(
                engine,
                questions,
                settings=settings,
                search=search,
                where=conditions,
                on_question=progress.advance,
            )
    if arguments.json:
        print(json.dumps(result.to_dict()))
    else:
        _show(result)
    return 0


def _show(result: Evaluation) -> None:
    print(f"questions    {result.questions}")
    if result.hits is not None:
        if result.with_gold_passage != result.questions:
            print(f"with gold    {result.with_gold_passage}")
        for k, rate in result.hits.items():
            print(f"{f'hit@{k}':<12} {rate:.3f}")
    if result.exact_match is not None and result.f1 is not None:
        print(f"exact match  {result.exact_match:.3f}\nF1           {result.f1:.3f}")
    print("\nmilliseconds      p50      p90      p99")
    for stage, values in result.latency_ms.items():
        print(f"{stage:<12}" + "".join(f"{v:9.1f}" for v in values.values()))
