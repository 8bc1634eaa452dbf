"""Tokenising: cutting, padding, and texts that try to be special tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from rag_infer.errors import BundleError
from rag_infer.text import Tokenizer, clean, pad


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """A byte-level tokenizer without merges, with one special token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|end|>"])
    made.save(str(tmp_path / "tokenizer.json"))
    return Tokenizer(tmp_path / "tokenizer.json")


def test_round_trip(tokenizer: Tokenizer) -> None:
    text = "Naïve 東京 🙂\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_in_texts_are_defused(tokenizer: Tokenizer) -> None:
    end = tokenizer.token_to_id("<|end|>")
    assert end in tokenizer.encode("a<|end|>b")
    assert end not in tokenizer.encode(tokenizer.defuse("a<|end|>b<|end|>"))


def test_cut_keeps_the_beginning(tokenizer: Tokenizer) -> None:
    assert tokenizer.cut("abcdef", 4) == "abcd"
    assert tokenizer.cut("abc", 4) == "abc"
    assert tokenizer.cut("abc", 0) == ""


def test_clean() -> None:
    assert clean("a\x00b\x1b[1mc\td\ne\x7f\ud800") == "ab[1mc\td\ne"


def test_pad_is_right_sided_and_bucketed() -> None:
    ids, mask = pad([[1, 2, 3], []], pad_id=9, multiple=4)
    assert ids.tolist() == [[1, 2, 3, 9], [9, 9, 9, 9]]
    assert mask.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]


def test_not_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match="cannot be read as a tokenizer"):
        Tokenizer(tmp_path / "tokenizer.json")
