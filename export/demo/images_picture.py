"""A question, the images that were retrieved for it, and the answer, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.engine import RagEngine
from rag_infer.export.demo.images_measure import Asked
from rag_infer.images import Image, read_image
from rag_infer.knowledge import SearchConfig
from rag_infer.query import Query

SIDE, GAP, LINE = 128, 12, 15
QUESTIONS = ("what is the", "what color", "does", "is there not")


def write_picture(engine: RagEngine, asked: Sequence[Asked], path: Path, search: SearchConfig) -> Path:
    """Draw some questions with their images, passages and answers: one of each of `QUESTIONS`; returns the path."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    beginnings = [[a for a in asked if a.question.startswith(start)][:1] for start in QUESTIONS]
    chosen = [a for begun in beginnings for a in begun] or list(asked[: len(QUESTIONS)])
    answers = engine.generate([Query(a.question, a.image) for a in chosen], search=search)
    columns = 1 + max(len(answer.passages) for answer in answers)
    width, height = GAP + columns * (SIDE + GAP), SIDE + 3 * LINE + 2 * GAP
    picture = Pillow.new("RGB", (width, len(chosen) * height), "white")
    draw = ImageDraw.Draw(picture)
    for row, (one, answer) in enumerate(zip(chosen, answers, strict=True)):
        top = row * height + GAP
        draw.text((GAP, top), f"Q: {one.question}   A: {answer.text}", fill="black")
        _paste(picture, read_image(one.image), GAP, top + LINE)
        for column, passage in enumerate(answer.passages, 1):
            left = GAP + column * (SIDE + GAP)
            if isinstance(passage.image, Image):
                _paste(picture, passage.image.pixels(), left, top + LINE)
            draw.text((left, top + LINE + SIDE), passage.text, fill="black")
            draw.text((left, top + 2 * LINE + SIDE), f"posterior {passage.posterior:.2f}", fill="gray")
    picture.save(path, optimize=True)
    return path


def _paste(picture: Any, pixels: NDArray[np.uint8], left: int, top: int) -> None:
    from PIL import Image as Pillow
    from PIL import ImageDraw

    scaled = Pillow.fromarray(pixels).resize((SIDE, SIDE), Pillow.Resampling.NEAREST)
    picture.paste(scaled, (left, top))
    ImageDraw.Draw(picture).rectangle((left, top, left + SIDE - 1, top + SIDE - 1), outline="gray")
