"""Files of questions to measure an index with."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_infer.cli.query_file import read_query_texts
from rag_infer.errors import CorpusError


def test_lines_of_text_and_of_json(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("who?\n\n  where? \n", encoding="utf-8")
    (tmp_path / "q.jsonl").write_text('{"text": "who?", "answers": []}\n{"text": "wo\\u00df?"}\n')
    assert read_query_texts(tmp_path / "q.txt") == ["who?", "where?"]
    assert read_query_texts(tmp_path / "q.jsonl") == ["who?", "woß?"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n \n", "holds no question"),
        (b"\xff", "is not UTF-8"),
        (b'{"text": "a"}\nwho?', "line 2: not JSON"),
        (b'{"text": " "}', "line 1: needs a 'text'"),
        (b'["who?"]', "line 1: needs a 'text'"),
    ],
)
def test_what_is_no_file_of_questions(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "q.jsonl").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read_query_texts(tmp_path / "q.jsonl")
    with pytest.raises(CorpusError, match="cannot be read: No such file"):
        read_query_texts(tmp_path / "none.txt")
