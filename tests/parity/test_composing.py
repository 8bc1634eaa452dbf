"""Contexts are those of transformers' `RagRetriever`, run for real on random strings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from rag_infer.compose import Seq2SeqComposer, clean_up_spaces
from rag_infer.parts import ComposingRule
from rag_infer.text import Tokenizer

LIMIT = 24
WORDS = st.sampled_from(
    [
        "Who",
        "built",
        "the",
        "Tower",
        "?",
        ".",
        "n't",
        "'s",
        '"',
        "  ",
        " / ",
        " // ",
        "Größe",
        "i",
        "'",
        "<s>",
        ",",
    ]
)
TEXTS = st.lists(WORDS, max_size=14).map(" ".join) | st.lists(WORDS, max_size=14).map("".join)


def byte_level() -> tokenizers.Tokenizer:
    """Bytes, as BART's, with begin and end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {t: i for i, t in enumerate(["<s>", "<pad>", "</s>", *alphabet])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([tokenizers.AddedToken(t, special=True) for t in ("<s>", "<pad>", "</s>")])
    return tokenizer


def word_pieces() -> tokenizers.Tokenizer:
    """Lower-cased letters as word pieces, as BERT's."""
    letters = "abcdefghijklmnopqrstuvwxyz?.,'\"/"
    vocabulary = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *letters, *("##" + c for c in letters)]
    tokenizer = tokenizers.Tokenizer(
        models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(t, special=True) for t in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")]
    )
    return tokenizer


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The generator's and the question encoder's tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, tokenizer in (("generator", byte_level()), ("question", word_pieces())):
        tokenizer.save(str(folder / f"{name}.json"))
    return folder / "generator.json", folder / "question.json"


def in_transformers(
    files: tuple[Path, Path], question: str, passages: list[tuple[str, str]], prefix: str
) -> list[tuple[int, ...]]:
    """The contexts by `RagRetriever.postprocess_docs`, without padding."""
    generator = transformers.PreTrainedTokenizerFast(tokenizer_file=str(files[0]), pad_token="<pad>")
    encoder = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(files[1]), pad_token="[PAD]", clean_up_tokenization_spaces=True
    )
    config: Any = SimpleNamespace(title_sep=" / ", doc_sep=" // ", max_combined_length=LIMIT)
    retriever: Any = SimpleNamespace(config=config, generator_tokenizer=generator)
    strings = encoder.batch_decode(encoder([question])["input_ids"], skip_special_tokens=True)
    docs = [{"title": [t for t, _ in passages], "text": [x for _, x in passages]}]
    ids, mask = transformers.RagRetriever.postprocess_docs(retriever, docs, strings, prefix, len(passages))
    return [
        tuple(i for i, m in zip(row, ones, strict=True) if m) for row, ones in zip(ids, mask, strict=True)
    ]


def composer(files: tuple[Path, Path], prefix: str = "") -> Seq2SeqComposer:
    rule = ComposingRule(prefix=prefix, max_combined_length=LIMIT, decoded_question=True)
    return Seq2SeqComposer(Tokenizer(files[0]), rule, Tokenizer(files[1]))


@settings(max_examples=300, deadline=None)
@given(
    question=TEXTS,
    passages=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3),
    prefix=st.sampled_from(["", "answer: "]),
)
def test_as_transformers(
    files: tuple[Path, Path], question: str, passages: list[tuple[str, str]], prefix: str
) -> None:
    found = composer(files, prefix).compose(question, passages, compat="transformers-4.57")
    assert [c.input_ids for c in found] == in_transformers(files, question, passages, prefix)


@settings(max_examples=200, deadline=None)
@given(title=TEXTS, text=TEXTS)
def test_the_question_stays(files: tuple[Path, Path], title: str, text: str) -> None:
    composed = composer(files)
    ids = composed.compose("who is i?", [(title, text)])[0].input_ids
    assert len(ids) <= LIMIT
    assert Tokenizer(files[0]).decode(ids).endswith(" // who is i?")


def test_short_contexts_are_the_same(files: tuple[Path, Path]) -> None:
    ours = composer(files).compose("Who?", [('"The"', "x  y")])[0].input_ids
    assert [ours] == in_transformers(files, "Who?", [('"The"', "x  y")], "")


def test_special_tokens_are_defused(files: tuple[Path, Path]) -> None:
    ids = composer(files).compose("Who?", [("a</s>b", "c")])[0].input_ids
    assert ids.count(2) == 1


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_spaces(text: str) -> None:
    wanted = transformers.PreTrainedTokenizerBase.clean_up_tokenization(text)
    assert clean_up_spaces(text) == wanted
