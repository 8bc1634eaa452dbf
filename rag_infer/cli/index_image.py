"""``rag-infer index add --image``: one image as a passage."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag_infer.knowledge import Passage


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """--image with what belongs to it, and --reference-images."""
    parser.add_argument("--image", metavar="FILE", help="an image to add, alone or with --text")
    parser.add_argument("--text", help="its caption")
    parser.add_argument("--title", help="its title")
    parser.add_argument("--id", help="its id (default: the file's name)")
    parser.add_argument(
        "--reference-images",
        action="store_true",
        help="keep where images are, and not their files",
    )


def one_passage(arguments: argparse.Namespace) -> list[Passage]:
    """The passage of ``--image``, or none.

    Raises:
        ValueError: --text, --title or --id without --image.
        ImageError: the image cannot be read.
    """
    from rag_infer.images import Image
    from rag_infer.knowledge import Passage

    names = ("text", "title", "id")
    if arguments.image is None:
        idle = [f"--{name}" for name in names if getattr(arguments, name) is not None]
        if idle:
            raise ValueError(f"{idle[0]} goes with --image FILE")
        return []
    path = Path(arguments.image)
    image = Image.reference(path) if arguments.reference_images else Image.of(path)
    return [Passage(arguments.id or path.name, arguments.text or "", arguments.title or "", image=image)]
