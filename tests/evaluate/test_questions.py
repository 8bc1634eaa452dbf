"""Question files: what is read, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_infer.errors import CorpusError
from rag_infer.evaluate.questions import read_questions


def test_reads_questions(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"text": "Who?", "answers": ["I"], "passage_id": 7}\n\n{"text": "What?", "answers": []}\n'
    )
    first, second = read_questions(path)
    assert (first.query.text, first.answers, first.passage_id) == ("Who?", ("I",), "7")
    assert second.passage_id is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "Who?", "answers": ["I"]}\nnonsense\n', "line 2: not JSON"),
        (b"\xff\xfe\n", "line 1: not UTF-8"),
        (b'{"answers": []}\n', "line 1: needs a 'text'"),
        (b'{"text": " ", "answers": []}\n', "line 1: needs a 'text'"),
        (b'{"text": "Who?", "answers": "I"}\n', "line 1: needs 'answers'"),
        (b"[1]\n", "line 1: needs a 'text'"),
        (b'{"text": "Who?", "image": 7, "answers": []}', "line 1: the 'image' must be a path, got 7"),
        (b'{"image": "none.png", "answers": []}', "line 1: .*none.png cannot be read"),
        (b'{"image": "https://example.org/a.png", "answers": []}', "line 1: .* is an address"),
        (b"", "holds no question"),
    ],
)
def test_refuses(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read_questions(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be read"):
        read_questions(tmp_path / "none.jsonl")
