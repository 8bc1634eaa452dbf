"""Options that cut the entries of a corpus, which may then be long documents, into passages."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rag_infer.cli.defaults import default_bundle

if TYPE_CHECKING:
    from rag_infer.knowledge import Chunker

# Option by setting of `ChunkConfig`; each needs --chunk-size.
SETTINGS = {
    "unit": "--chunk-unit",
    "overlap": "--chunk-overlap",
    "sentences": "--chunk-mid-sentence",
    "language": "--chunk-language",
}


def add_chunk_options(verb: argparse.ArgumentParser) -> None:
    """--chunk-size and how to cut; without it every entry is one passage."""
    verb.add_argument(
        "--chunk-size", type=int, metavar="N", help="cut entries into passages of at most N tokens or words"
    )
    verb.add_argument(
        SETTINGS["unit"],
        choices=("tokens", "words"),
        dest="chunk_unit",
        help="tokens of the passage encoder, title and special ones included, or words (default: tokens)",
    )
    verb.add_argument(
        SETTINGS["overlap"],
        type=int,
        metavar="M",
        dest="chunk_overlap",
        help="at most M tokens or words are repeated in the next passage (default: 0)",
    )
    verb.add_argument(
        SETTINGS["sentences"],
        action="store_false",
        default=None,
        dest="chunk_sentences",
        help="fill every passage, also where that splits a sentence",
    )
    verb.add_argument(
        SETTINGS["language"],
        metavar="CODE",
        dest="chunk_language",
        help="language whose rules end a sentence (default: en)",
    )


def chunker(arguments: argparse.Namespace) -> Chunker | None:
    """What cuts the entries, or None.

    Raises:
        ValueError: settings without --chunk-size, or ones that do not go together.
    """
    settings: dict[str, Any] = {
        name: value for name in SETTINGS if (value := getattr(arguments, f"chunk_{name}")) is not None
    }
    if arguments.chunk_size is None:
        if settings:
            raise ValueError(f"{', '.join(SETTINGS[name] for name in settings)} needs --chunk-size")
        return None
    from rag_infer.knowledge import ChunkConfig, Chunker

    config = ChunkConfig(size=arguments.chunk_size, **settings)
    return Chunker(config, bundle=arguments.bundle or default_bundle())
