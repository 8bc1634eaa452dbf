"""``rag-infer index build --chunk-size``: long documents, in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag_infer.knowledge import KnowledgeBase
from tests.cli.indexing import index


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """One document of more than a passage may have."""
    path = tmp_path / "corpus.jsonl"
    path.write_text(json.dumps({"_id": "d", "text": ("z" * 999 + " the dog runs. ") * 1200, "year": 2020}))
    return path


def test_build_and_add(tmp_path: Path, bundle: Path, corpus: Path) -> None:
    kb = tmp_path / "kb"
    assert "over 1,000,000: split it" in index("build", kb, corpus, "--bundle", bundle, status=1)
    chunking = ("--chunk-size", 400, "--chunk-unit", "words", "--chunk-overlap", 4, "--chunk-language", "en")
    built = json.loads(index("build", kb, corpus, "--bundle", bundle, *chunking, "--json"))
    assert built["passages"] == built["added"] == 13
    again = index("add", kb, corpus, "--bundle", bundle, *chunking)
    assert "13 passages (0 added, 0 replaced, 13 unchanged)" in again
    with KnowledgeBase.open(kb, bundle=bundle) as opened:
        last = opened.get(["d#12"])[0]
        assert last is not None
        assert last.text.endswith("the dog runs.")
        assert last.metadata["year"] == 2020
        assert last.metadata["chunk_count"] == 13


def test_by_tokens_in_mid_sentence(tmp_path: Path, bundle: Path, corpus: Path) -> None:
    options = ("--bundle", bundle, "--chunk-size", 32, "--chunk-mid-sentence", "--json")
    # 5 tokens are a word of unknown letters, three known ones and the full stop.
    assert json.loads(index("build", tmp_path / "kb", corpus, *options))["passages"] >= 1200 * 5 // 32


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--chunk-overlap", 4), 2, "--chunk-overlap needs --chunk-size"),
        (("--chunk-size", 4, "--chunk-overlap", 4), 2, "below their size of 4, got 4"),
        (("--chunk-size", 33), 2, "chunks of 33 tokens: the passage encoder reads 32"),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, bundle: Path, corpus: Path, options: tuple[object, ...], status: int, message: str
) -> None:
    assert message in index("build", tmp_path / "kb", corpus, "--bundle", bundle, *options, status=status)
    assert not (tmp_path / "kb").exists()


def test_a_shorter_document_leaves_no_chunk_behind(tmp_path: Path, bundle: Path) -> None:
    corpus, kb = tmp_path / "corpus.jsonl", tmp_path / "kb"
    chunks = ("--chunk-size", 3, "--chunk-unit", "words", "--chunk-mid-sentence", "--bundle", bundle)
    for text, count in (("red sea deep sky red sea deep", 3), ("red sea deep sky", 2)):
        corpus.write_text(json.dumps({"id": "d", "text": text}) + "\n")
        index("build", kb, corpus, *chunks)
        with KnowledgeBase.open(kb) as opened:
            assert len(opened) == count
