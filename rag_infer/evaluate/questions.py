"""Question sets: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_infer.errors import CorpusError, ImageError
from rag_infer.images.reading import refuse_address
from rag_infer.query import Query


@dataclass(frozen=True)
class Question:
    """A question with its accepted answers and, where known, the passage that holds them.

    Attributes:
        query: the question: a text, an image, or both.
        answers: accepted answers.
        passage_id: id of the gold passage, or None.
    """

    query: Query
    answers: tuple[str, ...]
    passage_id: str | None = None


def read_questions(path: Path) -> list[Question]:
    """Read a questions file: ``text``, ``image`` or both, ``answers`` and optionally ``passage_id``.

    An image is a path relative to the file.

    Raises:
        CorpusError: no such file, or a line that is no question; the message gives file and line.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}") from None
    questions = [
        _parse(f"{path}, line {n}", line, path.parent)
        for n, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not questions:
        raise CorpusError(f"{path} holds no question")
    return questions


def _parse(where: str, line: bytes, folder: Path) -> Question:
    try:
        data: Any = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise CorpusError(f"{where}: not UTF-8") from None
    except json.JSONDecodeError as error:
        raise CorpusError(f"{where}: not JSON: {error}") from None
    query = _query(where, data, folder) if isinstance(data, Mapping) else None
    if query is None:
        raise CorpusError(f"{where}: needs a 'text' that is a question, or an 'image'")
    answers = data.get("answers")
    if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
        raise CorpusError(f"{where}: needs 'answers', a list of strings")
    passage_id = data.get("passage_id")
    return Question(query, tuple(answers), None if passage_id is None else str(passage_id))


def _query(where: str, data: Mapping[str, Any], folder: Path) -> Query | None:
    """What is asked, or None where it is nothing."""
    text, image = data.get("text") or "", data.get("image")
    if not isinstance(text, str) or not (text.strip() or image):
        return None
    if image is None:
        return Query(text)
    if not isinstance(image, str):
        raise CorpusError(f"{where}: the 'image' must be a path, got {image!r}")
    try:
        refuse_address(image)
        return Query(text, folder / image)
    except ImageError as error:
        raise CorpusError(f"{where}: {error}") from None
