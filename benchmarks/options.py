"""Options that several scripts share, and what their values may be."""

from __future__ import annotations

import argparse
from pathlib import Path

from rag_infer.session import available_threads


def positive(text: str) -> int:
    """A whole number above 0, as a type for argparse."""
    return _at_least(1, text, "a positive integer")


def natural(text: str) -> int:
    """A whole number, 0 too, as a type for argparse."""
    return _at_least(0, text, "an integer of at least 0")


def chart(text: str) -> Path:
    """A file to draw into, as a type for argparse."""
    path = Path(text)
    if path.suffix != ".svg" or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of an .svg file in a folder that exists")
    return path


def timing_parser(
    description: str | None,
    *,
    repeats: int,
    threads: int | None = None,
    seed: bool = True,
    charted: bool = True,
) -> argparse.ArgumentParser:
    """A parser with what every script takes: --threads, --repeats, --seed, --chart and --debug.

    Args:
        description: the script's docstring.
        repeats: the default.
        threads: the default; None for the processors it may run on.
        seed: whether anything is drawn at random.
        charted: whether it compares, and can draw that.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--threads", type=positive, default=threads or available_threads(), help="default %(default)s"
    )
    parser.add_argument(
        "--repeats", type=positive, default=repeats, help="timed runs of each; default %(default)s"
    )
    if seed:
        parser.add_argument("--seed", type=natural, default=0, help="of what is drawn at random")
    if charted:
        parser.add_argument("--chart", type=chart, metavar="FILE.svg", help="draw the medians")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_search_sizes(parser: argparse.ArgumentParser) -> None:
    """--rows, --dim, --queries and -k."""
    parser.add_argument("--rows", type=positive, default=200_000, help="vectors to search")
    parser.add_argument("--dim", type=positive, default=384, help="their length")
    parser.add_argument(
        "--queries", type=positive, nargs="+", default=[1, 8, 32], help="queries at once, by case"
    )
    parser.add_argument("-k", type=positive, default=10, help="rows to find")


def add_contexts(parser: argparse.ArgumentParser) -> None:
    """--n-docs and --context."""
    parser.add_argument("--n-docs", type=positive, default=5, help="passages")
    parser.add_argument("--context", type=positive, default=200, help="tokens of passage and question")


def check_k(parser: argparse.ArgumentParser, arguments: argparse.Namespace, size: str) -> None:
    """Exit with status 2 where -k is more than there are to choose from, which is the option ``size``."""
    there = getattr(arguments, size)
    if arguments.k > there:
        parser.error(f"argument -k: {arguments.k} is more than --{size}, {there}")


def _at_least(least: int, text: str, what: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number
