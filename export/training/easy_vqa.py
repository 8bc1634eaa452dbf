"""The easy-VQA data set: 5,000 images of one coloured shape each, and 48,000 questions (Victor Zhou 2019, MIT).

What is known of an image is what its questions and their answers say together: of most its shape and its colour.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorpusError
from rag_infer.images.reading import read_image

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Facts:
    """What is known of an image, or said of one.

    Attributes:
        shape: one of `SHAPES`, or None.
        colour: one of `COLOURS`, or None.

    >>> Facts("circle", "blue").sentence, Facts(None, "blue").sentence
    ('a blue circle', 'a blue shape')
    """

    shape: str | None = None
    colour: str | None = None

    @property
    def sentence(self) -> str:
        """As one would say it."""
        return " ".join(filter(None, ("a", self.colour, self.shape or "shape")))

    @property
    def whole(self) -> bool:
        """Whether both are known."""
        return self.shape is not None and self.colour is not None

    def agrees(self, other: Facts) -> bool:
        """Whether all that is said here is so of the other."""
        return self.shape in (None, other.shape) and self.colour in (None, other.colour)


@dataclass(frozen=True)
class Question:
    """A question about an image.

    Attributes:
        text: in small letters.
        answer: "yes", "no", a shape or a colour.
        image: the image's number in its split.
    """

    text: str
    answer: str
    image: int

    @property
    def presupposed(self) -> Facts:
        """What the question takes for granted, such as the shape in "what color is the circle?".

        >>> Question("what color is the circle?", "red", 0).presupposed.sentence
        'a circle'
        >>> Question("is there a circle?", "yes", 0).presupposed.sentence
        'a shape'
        """
        return Facts() if self.answer in ("yes", "no") else _facts_in(self.text)


@dataclass(frozen=True)
class Split:
    """The images and questions of training or test.

    Attributes:
        images: their files, by number.
        facts: of each image.
        questions: about them.
    """

    images: tuple[Path, ...]
    facts: tuple[Facts, ...]
    questions: tuple[Question, ...]

    def pixels(self) -> NDArray[np.uint8]:
        """All images, ``[images, 64, 64, 3]``."""
        return np.stack([read_image(path) for path in self.images])


def read_split(folder: Path, name: str) -> Split:
    """Read one of `SPLITS`.

    Args:
        folder: the package's ``data``.
        name: "train" or "test".

    Raises:
        CorpusError: a file is missing or is not what it should be.
    """
    path = folder / name / "questions.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        questions = tuple(Question(str(text), str(answer), int(image)) for text, answer, image in entries)
    except (OSError, ValueError, TypeError) as error:
        raise CorpusError(f"{path} cannot be read as easy-VQA's questions: {error}") from None
    count = max((q.image for q in questions), default=-1) + 1
    images = tuple(folder / name / "images" / f"{i}.png" for i in range(count))
    missing = [image for image in images if not image.is_file()]
    if missing or not images:
        raise CorpusError(
            f"{folder} lacks {len(missing)} of {count} images, such as {(missing or [path])[0]}"
        )
    asked: list[list[Question]] = [[] for _ in images]
    for question in questions:
        asked[question.image].append(question)
    return Split(images, tuple(map(known_facts, asked)), questions)


def known_facts(questions: Iterable[Question]) -> Facts:
    """What follows from the answers to the questions about one image.

    >>> known_facts([Question("what is the red shape?", "circle", 0)]).sentence
    'a red circle'
    >>> known_facts([Question(f"is there a {s}?", "no", 0) for s in ("circle", "triangle")]).sentence
    'a rectangle'
    """
    shapes, colours = set(SHAPES), set(COLOURS)
    for question in questions:
        said = _facts_in(question.text)
        if question.answer in ("yes", "no"):
            there = (question.answer == "yes") != bool({"no", "not"} & set(_words(question.text)))
            _narrow(shapes, said.shape, there)
            _narrow(colours, said.colour, there)
            continue
        for facts in (said, _facts_in(question.answer)):
            _narrow(shapes, facts.shape, True)
            _narrow(colours, facts.colour, True)
    return Facts(_only(shapes), _only(colours))


def all_facts() -> tuple[Facts, ...]:
    """The 24 kinds of images, then each colour and each shape alone."""
    kinds = [Facts(shape, colour) for shape in SHAPES for colour in COLOURS]
    return (*kinds, *(Facts(None, c) for c in COLOURS), *(Facts(s) for s in SHAPES))


def _narrow(possible: set[str], value: str | None, there: bool) -> None:
    if value is not None and there:
        possible &= {value}
    elif value is not None:
        possible -= {value}


def _only(possible: set[str]) -> str | None:
    return next(iter(possible)) if len(possible) == 1 else None


def _facts_in(text: str) -> Facts:
    words = _words(text)
    return Facts(_first(words, SHAPES), _first(words, COLOURS))


def _first(words: Sequence[str], known: Sequence[str]) -> str | None:
    return next((word for word in words if word in known), None)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text)
