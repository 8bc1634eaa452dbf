"""Question sets: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_infer.errors import CorpusError


@dataclass(frozen=True)
class Question:
    """A question with its accepted answers and, where known, the passage that holds them.

    Attributes:
        text: the question.
        answers: accepted answers.
        passage_id: id of the gold passage, or None.
    """

    text: str
    answers: tuple[str, ...]
    passage_id: str | None = None


def read_questions(path: Path) -> list[Question]:
    """Read a questions file with the fields ``text``, ``answers`` and optionally ``passage_id``.

    Raises:
        CorpusError: no such file, or a line that is no question; the message gives file and line.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}") from None
    questions = [_parse(f"{path}, line {n}", line) for n, line in enumerate(lines, start=1) if line.strip()]
    if not questions:
        raise CorpusError(f"{path} holds no question")
    return questions


def _parse(where: str, line: bytes) -> Question:
    try:
        data: Any = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise CorpusError(f"{where}: not UTF-8") from None
    except json.JSONDecodeError as error:
        raise CorpusError(f"{where}: not JSON: {error}") from None
    if not isinstance(data, Mapping) or not isinstance(data.get("text"), str) or not data["text"].strip():
        raise CorpusError(f"{where}: needs a 'text' that is a question")
    answers = data.get("answers")
    if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
        raise CorpusError(f"{where}: needs 'answers', a list of strings")
    passage_id = data.get("passage_id")
    return Question(data["text"], tuple(answers), None if passage_id is None else str(passage_id))
