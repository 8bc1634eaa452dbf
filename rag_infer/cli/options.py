"""Options that several verbs share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rag_infer.cli.defaults import default_bundle, default_knowledge_base


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--bundle, --kb, --device and --threads."""
    parser.add_argument("--bundle", type=Path, help="the model bundle (default: the demo's)")
    parser.add_argument("--kb", type=Path, help="the knowledge base (default: the demo's)")
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
    """--where FIELD=VALUE, any number of times."""
    parser.add_argument(
        "--where", action="append", default=[], metavar="FIELD=VALUE", help="only passages with this metadata"
    )


SETTINGS = ("strategy", "num_beams", "max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "seed")


def generation_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, by `GenerationConfig` name."""
    return {name: value for name in SETTINGS if (value := getattr(arguments, name)) is not None}


def where(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The metadata filter, or None. A value that reads as JSON is taken as such (2020 is a number).

    Raises:
        ValueError: a condition without "=".
    """
    conditions: dict[str, Any] = {}
    for condition in arguments.where:
        field, equals, value = condition.partition("=")
        if not equals or not field:
            raise ValueError(f"--where takes FIELD=VALUE, got {condition!r}")
        try:
            conditions[field] = json.loads(value)
        except json.JSONDecodeError:
            conditions[field] = value
    return conditions or None


def bundle_path(arguments: argparse.Namespace) -> Path:
    """The bundle named, else the demo's."""
    return arguments.bundle or default_bundle()


def knowledge_base_path(arguments: argparse.Namespace) -> Path:
    """The knowledge base named, else the demo's."""
    return arguments.kb or default_knowledge_base()
