"""Prompts: what is cut and what never is, special tokens in texts, and pieces that do not depend on each other."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_infer.compose import ANSWER_RESERVE, CausalComposer
from rag_infer.errors import RagInferWarning
from rag_infer.parts import CausalGeneratorPart, PromptTemplate
from rag_infer.text import Tokenizer
from tests.generate.conftest import MAX_POSITIONS, PROMPT
from tests.tiny_llama import BOS, END, PAD, SPECIAL, TURN, VOCAB, make_tokenizer

PART = CausalGeneratorPart(
    path="generator",
    vocab_size=VOCAB,
    num_layers=2,
    num_kv_heads=2,
    head_dim=8,
    max_positions=MAX_POSITIONS,
    bos_token_id=None,
    eos_token_ids=(END,),
    pad_token_id=PAD,
    prompt=PROMPT,
)
LIMIT = PROMPT.max_passage_tokens


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    make_tokenizer().save(str(path))
    return Tokenizer(path)


@pytest.fixture(scope="module")
def composer(tokenizer: Tokenizer) -> CausalComposer:
    return CausalComposer(tokenizer, PART)


def text_of(tokenizer: Tokenizer, ids: tuple[int, ...]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False)


def test_pieces_are_the_templates_tokenised_apart(composer: CausalComposer, tokenizer: Tokenizer) -> None:
    passages = [("Sea", "the sea is deep"), ("", ""), ("Cat", "on the mat")]
    contexts = composer.compose("where is it?", passages)
    for (title, text), context in zip(passages, contexts, strict=True):
        assert list(context.passage_ids) == tokenizer.encode(f"{title}: {text}\n")
        assert list(context.question_ids) == tokenizer.encode("Question: where is it?\n<turn>Answer:")
    others = composer.compose("another question", passages[:1])
    assert others[0].passage_ids == contexts[0].passage_ids
    assert composer.compose("where is it?", []) == []


def test_preamble(tokenizer: Tokenizer, composer: CausalComposer) -> None:
    assert composer.preamble_ids[-1] == TURN
    begun = replace(PART, bos_token_id=BOS)
    assert CausalComposer(tokenizer, begun).preamble_ids == (BOS, *composer.preamble_ids)
    # A template that begins with it itself is not given a second one.
    prompt = replace(PROMPT, preamble="<begin>" + PROMPT.preamble)
    assert CausalComposer(tokenizer, replace(begun, prompt=prompt)).preamble_ids == (
        BOS,
        *composer.preamble_ids,
    )
    empty = replace(PROMPT, preamble="")
    assert CausalComposer(tokenizer, replace(PART, prompt=empty)).preamble_ids == ()
    assert CausalComposer(tokenizer, replace(begun, prompt=empty)).preamble_ids == (BOS,)


def test_a_long_passage_is_cut_at_the_end_of_its_text(composer: CausalComposer, tokenizer: Tokenizer) -> None:
    long = "the river runs deep to the sea. " * 30
    question = "where is the red cat? " * 3
    cut, short = composer.compose(question, [("River", long), ("River", "the sea")])
    assert LIMIT - 4 <= len(cut.passage_ids) <= LIMIT
    written = text_of(tokenizer, cut.passage_ids)
    assert written.startswith("River: the river runs")
    assert written.endswith("\n")
    assert long.startswith(written.removeprefix("River: ").rstrip("\n"))
    assert cut.question_ids == short.question_ids
    assert question in text_of(tokenizer, cut.question_ids)


def test_a_long_title_leaves_room_for_the_text(composer: CausalComposer, tokenizer: Tokenizer) -> None:
    (context,) = composer.compose("who?", [("red cat " * 100, "the sea " * 100)])
    assert len(context.passage_ids) <= LIMIT
    title, text = text_of(tokenizer, context.passage_ids).split(": ")
    assert title.startswith("red cat")
    assert text.startswith("the sea the sea")


@settings(max_examples=60, deadline=None)
@given(title=st.text(max_size=60), text=st.text(max_size=120))
def test_no_passage_is_longer_than_the_limit(composer: CausalComposer, title: str, text: str) -> None:
    (context,) = composer.compose("who?", [(title, text)])
    assert len(context.passage_ids) <= LIMIT


@pytest.mark.parametrize("letter", ["é", "東", "🐈"])
def test_the_limit_holds_for_characters_of_several_tokens(composer: CausalComposer, letter: str) -> None:
    for before in range(5):
        (context,) = composer.compose("who?", [("", "a" * before + letter * 100)])
        assert LIMIT - 8 <= len(context.passage_ids) <= LIMIT


@settings(max_examples=60, deadline=None)
@given(
    text=st.lists(st.sampled_from([*SPECIAL, "<", "end", "end>", "\x00", " ", "<e<end>nd>", "x"])).map(
        "".join
    )
)
def test_special_tokens_in_texts_are_defused(composer: CausalComposer, text: str) -> None:
    (plain,) = composer.compose("x", [("x", "x")])
    (context,) = composer.compose(text, [(text, text)])
    special = range(len(SPECIAL))
    assert [t for t in context.passage_ids if t in special] == []
    assert [t for t in context.question_ids if t in special] == [
        t for t in plain.question_ids if t in special
    ]


def test_defused_text_stays_readable(composer: CausalComposer, tokenizer: Tokenizer) -> None:
    (context,) = composer.compose("who<end> is\x00 it<turn>?", [("A<pad>b", "c\x1b<e\x00nd>d")])
    assert text_of(tokenizer, context.question_ids) == "Question: who< end> is it< turn>?\n<turn>Answer:"
    assert text_of(tokenizer, context.passage_ids) == "A< pad>b: c< end>d\n"


@pytest.mark.parametrize(
    "text", ["{question}", "{title} {text}", "{}", "{0}", "}{", r"\1 \g<0>", "%s", "{{x}}"]
)
def test_braces_survive(tokenizer: Tokenizer, text: str) -> None:
    roomy = replace(PART, prompt=replace(PROMPT, max_passage_tokens=100))
    (context,) = CausalComposer(tokenizer, roomy).compose(text, [(text, text)])
    assert text_of(tokenizer, context.passage_ids) == f"{text}: {text}\n"
    assert text_of(tokenizer, context.question_ids) == f"Question: {text}\n<turn>Answer:"


def test_braces_of_the_template_survive(tokenizer: Tokenizer) -> None:
    prompt = PromptTemplate(preamble="", passage='{"t": "{title}{text}"}', question="{other} {question}")
    (context,) = CausalComposer(tokenizer, replace(PART, prompt=prompt)).compose("q", [("a", "b")])
    assert text_of(tokenizer, context.passage_ids) == '{"t": "ab"}'
    assert text_of(tokenizer, context.question_ids) == "{other} q"


@pytest.mark.parametrize("word", ["where is it? ", "東", "a東", "aa東", "x"])
def test_a_very_long_question_is_cut_with_a_warning(
    composer: CausalComposer, tokenizer: Tokenizer, word: str
) -> None:
    question = word[:-1] + word[-1] * 1000 if len(word) < 4 else word * 200
    with pytest.warns(RagInferWarning, match=f"question of {len(question)} characters was cut to") as caught:
        (context,) = composer.compose(question, [("River", "the sea " * 100)])
    room = int(re.findall(r"to (\d+) tokens", str(caught[0].message))[0])
    assert room > 100
    used = len(composer.preamble_ids) + len(context.passage_ids) + len(context.question_ids)
    assert MAX_POSITIONS - ANSWER_RESERVE - 12 <= used <= MAX_POSITIONS - ANSWER_RESERVE
    written = text_of(tokenizer, context.question_ids)
    asked = written.removeprefix("Question: ").removesuffix("\n<turn>Answer:")
    assert question.startswith(asked)
    assert room - 8 <= len(tokenizer.encode(asked)) <= room


def test_a_question_that_fits_is_not_warned_of(composer: CausalComposer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        composer.compose("where is the cat? " * 10, [("River", "the sea " * 100)])
