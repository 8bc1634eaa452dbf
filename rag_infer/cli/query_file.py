"""Files of questions without answers, to measure an index with."""

from __future__ import annotations

import json
from pathlib import Path

from rag_infer.errors import CorpusError


def read_query_texts(path: Path) -> list[str]:
    """Questions: a line of a ``.txt`` file each, or the field ``text`` of a line of JSON.

    Raises:
        CorpusError: no such file, no question in it, or a line that is none; the message gives file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CorpusError(f"{path} is not UTF-8") from None
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise CorpusError(f"{path} holds no question")
    if path.suffix == ".txt":
        return [line for _, line in numbered]
    return [_text(f"{path}, line {number}", line) for number, line in numbered]


def _text(where: str, line: str) -> str:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusError(f"{where}: not JSON: {error}") from None
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise CorpusError(f"{where}: needs a 'text' that is a question")
    return text
