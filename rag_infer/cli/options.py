"""Options that several verbs share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_infer.cli.defaults import default_bundle, default_knowledge_base

if TYPE_CHECKING:
    from rag_infer.knowledge import SearchConfig
    from rag_infer.query import Query


def add_shared_options(parser: argparse.ArgumentParser, *, default: Any = False) -> None:
    """--json and --debug, which every verb has."""
    parser.add_argument("--json", action="store_true", default=default, help="print the result as JSON")
    parser.add_argument(
        "--debug", action="store_true", default=default, help="show the traceback of an error"
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--bundle, --kb, --device and --threads."""
    parser.add_argument("--bundle", type=Path, help="the model bundle (default: the demo's)")
    parser.add_argument(
        "--kb", type=place, help="folder or address of the knowledge base (default: the demo's)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--threads", type=int, help="threads (default: the processors it may run on)")


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """--n-docs, --strategy, --num-beams, --max-new-tokens and sampling."""
    parser.add_argument("--n-docs", type=int, help="passages to retrieve (default: the bundle's)")
    parser.add_argument("--strategy", help="how to marginalise: rag-token, rag-sequence or rag-sequence-fast")
    parser.add_argument("--num-beams", type=int, help="width of the beam search; 1 is greedy")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer in tokens")
    parser.add_argument("--do-sample", action="store_true", default=None, help="draw tokens instead")
    parser.add_argument("--temperature", type=float, help="of sampling")
    parser.add_argument("--top-k", type=int, help="of sampling; 0 keeps all tokens")
    parser.add_argument("--top-p", type=float, help="of sampling")
    parser.add_argument("--seed", type=int, help="makes sampling repeatable")


def add_where_option(parser: argparse.ArgumentParser) -> None:
    """--where CONDITION, any number of times."""
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only passages with this metadata: FIELD=VALUE, or JSON such as "
        """'{"year": {"$gte": 1900, "$lt": 2000}}'; all of several must hold""",
    )


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """--mode, --fusion, --alpha and --center."""
    parser.add_argument(
        "--mode", help="search by vectors, words or both: dense, lexical, hybrid (default: dense)"
    )
    parser.add_argument(
        "--fusion",
        help="how hybrid joins vectors and words: weighted, reciprocal_rank (default: weighted); how texts and images "
        "are joined: concat, weighted_average, score, rrf, max (default: as suits the encoders)",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        help="share of the vectors in hybrid, of the texts beside images (default: 0.5)",
    )
    parser.add_argument(
        "--center", action="store_true", help="subtract the means of texts and of images, which lie apart"
    )


def add_image_option(parser: argparse.ArgumentParser) -> None:
    """--image."""
    parser.add_argument("--image", metavar="FILE", help="an image to ask with, alone or beside the question")


def search_config(arguments: argparse.Namespace) -> SearchConfig:
    """How to search.

    Raises:
        ValueError: an unknown mode or fusion, a share out of its range, or one that the mode does not look at.
    """
    from rag_infer.knowledge import SearchConfig
    from rag_infer.knowledge.search_config import MODAL_FUSIONS

    names = ("mode", "fusion", "alpha")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    config = SearchConfig(**given, center=arguments.center)
    idle = [f"--{name}" for name in ("fusion", "alpha") if name in given]
    modal = config.mode == "dense" and ("fusion" not in given or config.fusion in MODAL_FUSIONS)
    if idle and config.mode != "hybrid" and not (modal and _is_modal(arguments)):
        beside = " or, where there are images, with --fusion" if idle[0] == "--alpha" else ""
        raise ValueError(f"{idle[0]} goes with --mode hybrid{beside}; got --mode {config.mode}")
    return config


def _is_modal(arguments: argparse.Namespace) -> bool:
    """Whether texts and images are said to be joined."""
    return bool(arguments.fusion or getattr(arguments, "image", None) or arguments.center)


def query(arguments: argparse.Namespace, text: str) -> Query:
    """The question of the command line: its words, and ``--image``.

    Raises:
        ValueError: neither.
        ImageError: the image cannot be read.
    """
    from rag_infer.query import Query

    return Query(text, arguments.image)


SETTINGS = ("strategy", "num_beams", "max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "seed")


def generation_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, by `GenerationConfig` name."""
    return {name: value for name in SETTINGS if (value := getattr(arguments, name)) is not None}


def where(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The metadata filter, or None.

    Raises:
        ValueError: a condition that is neither FIELD=VALUE nor a JSON object.
    """
    conditions = [_condition(text) for text in arguments.where]
    return conditions[0] if len(conditions) == 1 else {"$and": conditions} if conditions else None


def _condition(text: str) -> dict[str, Any]:
    """One condition. Whoever types 2020 may mean the number or the string: either fits."""
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"--where is no JSON: {error}: {text!r}") from None
        return dict(found)
    field, equals, value = text.partition("=")
    if not equals or not field:
        raise ValueError(f"--where takes FIELD=VALUE or a JSON object, got {text!r}")
    try:
        read = json.loads(value)
    except json.JSONDecodeError:
        return {field: value}
    return {field: read} if isinstance(read, dict | list | str) else {field: {"$in": [read, value]}}


def bundle_path(arguments: argparse.Namespace) -> Path:
    """The bundle named, else the demo's."""
    return arguments.bundle or default_bundle()


def place(text: str) -> str | Path:
    """Where a knowledge base is: an address as it is, anything else as a folder."""
    from rag_infer.knowledge.backends.address import knowledge_base_place

    return knowledge_base_place(text)


def show_place(where: str | Path) -> str:
    """A place as it may be printed, without the password in an address."""
    from rag_infer.knowledge.backends.address import is_address, parse_address

    return parse_address(str(where)).shown if is_address(where) else str(where)


def knowledge_base_path(arguments: argparse.Namespace) -> str | Path:
    """The knowledge base named, else the demo's."""
    return arguments.kb or default_knowledge_base()
