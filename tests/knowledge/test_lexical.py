"""BM25 by FTS5 against an obviously right twin, and questions that are no FTS5 queries."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag_infer.knowledge import KnowledgeBase, Passage, lexical
from rag_infer.knowledge.lexical import MAX_WORDS, TOKENIZER, lexical_search, question_words
from rag_infer.knowledge.schema import SCHEMA
from tests.knowledge.encoders import HashingEncoder

TOLERANCE = 1e-6
Document = tuple[str, str]


@contextlib.contextmanager
def filled(documents: Sequence[Document]) -> Iterator[KnowledgeBase]:
    """A knowledge base whose rows are the documents, in order."""
    with (
        tempfile.TemporaryDirectory() as folder,
        KnowledgeBase.create(Path(folder) / "kb", encoder=HashingEncoder()) as kb,
    ):
        write(kb, documents)
        yield kb


def write(kb: KnowledgeBase, documents: Sequence[Document]) -> None:
    vectors = np.zeros((len(documents), kb.settings.dim), dtype=np.float32)
    kb.upsert([Passage(f"p{i}", text, title) for i, (title, text) in enumerate(documents)], vectors)


def ask(
    kb: KnowledgeBase,
    question: str,
    k: int = 10,
    *,
    mask: NDArray[np.bool_] | None = None,
    title: float = 1.0,
) -> list[tuple[int, float]]:
    with kb._record.reading() as connection:
        scores, rows = lexical_search(connection, question, k, mask=mask, title_weight=title)
    assert scores.dtype == np.float32
    assert rows.dtype == np.int64
    return list(zip(rows.tolist(), scores.tolist(), strict=True))


def twin(
    documents: Sequence[Document], question: str, *, title: float = 1.0, all_words: bool = True
) -> dict[int, float]:
    """BM25 in float64 by the formula, over ASCII words, of every document with a word of the question."""
    split = [(t.lower().split(), x.lower().split()) for t, x in documents]
    mean = sum(len(t) + len(x) for t, x in split) / len(split)
    holding = {w: sum(w in t + x for t, x in split) for w in dict.fromkeys(question.lower().split())}
    idf = {w: math.log((len(split) - n + 0.5) / (n + 0.5)) for w, n in holding.items()}
    words = [w for w in idf if all_words or 2 * holding[w] < len(split)]
    scores = {}
    for row, (t, x) in enumerate(split):
        if any(w in t + x for w in words):
            norm = 1.2 * (1 - 0.75 + 0.75 * (len(t) + len(x)) / mean)
            counts = {w: x.count(w) + title * t.count(w) for w in words}
            scores[row] = sum(max(idf[w], 1e-6) * f * 2.2 / (f + norm) for w, f in counts.items())
    return scores


def assert_equals_twin(found: list[tuple[int, float]], expected: dict[int, float], k: int) -> None:
    assert [score for _, score in found] == pytest.approx(
        sorted(expected.values(), reverse=True)[:k], abs=TOLERANCE
    )
    for row, score in found:
        assert score == pytest.approx(expected[row], abs=TOLERANCE)
    assert found == sorted(found, key=lambda hit: (-hit[1], hit[0]))
    assert len({row for row, _ in found}) == len(found)


WORDS = st.sampled_from(["sea", "sky", "red", "green", "blue", "deep", "the", "of"])
SENTENCES = st.lists(WORDS, min_size=1, max_size=8).map(" ".join)
DOCUMENTS = st.lists(st.tuples(st.one_of(st.just(""), SENTENCES), SENTENCES), min_size=1, max_size=12)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(DOCUMENTS, SENTENCES, st.integers(1, 14), st.sampled_from([1.0, 2.5, 0.0]))
def test_scores_equal_the_twin(documents: list[Document], question: str, k: int, title: float) -> None:
    with filled(documents) as kb:
        found = ask(kb, question, k, title=title)
    assert_equals_twin(found, twin(documents, question, title=title), k)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(DOCUMENTS, SENTENCES, st.integers(1, 5), st.data())
def test_looking_at_the_rarest_words_first_changes_nothing(
    documents: list[Document], question: str, k: int, data: st.DataObject
) -> None:
    rows = st.lists(st.booleans(), min_size=len(documents), max_size=len(documents))
    mask = data.draw(st.none() | rows.map(lambda allowed: np.array(allowed, dtype=np.bool_)))
    with filled(documents) as kb, pytest.MonkeyPatch.context() as patch:
        plain = ask(kb, question, k, mask=mask)
        patch.setattr(lexical, "PRUNED_ABOVE", 0)
        patch.setattr(lexical, "GROWTH", 1)
        assert ask(kb, question, k, mask=mask) == plain


def corpus(rows: int, *, seed: int = 5) -> list[Document]:
    """Documents whose words are as unevenly frequent as those of a language (Zipf's law)."""
    generator = np.random.default_rng(seed)
    weights = 1 / np.arange(1, 301)
    words = generator.choice(300, size=(rows, 24), p=weights / weights.sum())
    return [(f"w{line[0]}", " ".join(f"w{w}" for w in line[1:])) for line in words]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KnowledgeBase]:
    """3,000 passages, where words that half of them have are left out."""
    path = tmp_path_factory.mktemp("large") / "kb"
    with KnowledgeBase.create(path, encoder=HashingEncoder(2)) as kb:
        write(kb, corpus(3000))
        yield kb


LARGE = corpus(3000)
QUESTIONS = ["w0 w1 w2 w40 w90", "w3 w5 w8", "w299 w0", "w20 w21 w22 w23 w24 w1 w2 w3", "w0 w0", "w250"]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("k", [1, 7, 100])
def test_common_words_are_left_out_of_a_large_knowledge_base(
    large: KnowledgeBase, question: str, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lexical, "PRUNED_ABOVE", 300)
    only_common = question == "w0 w0"
    expected = twin(LARGE, question, all_words=only_common)
    found = ask(large, question, k)
    assert_equals_twin(found, expected, k)
    full = twin(LARGE, question)  # what leaving them out has changed: less than 2.2e-6 per word
    for row, score in found:
        assert score == pytest.approx(full[row], abs=2.2e-6 * len(question.split()) + TOLERANCE)


def test_the_large_knowledge_base_has_common_words() -> None:
    assert sum("w0" in (title + " " + text).split() for title, text in LARGE) * 2 > len(LARGE)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 1.0])
def test_a_mask_is_exact_under_any_selectivity(
    large: KnowledgeBase, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lexical, "PRUNED_ABOVE", 300)
    mask = np.random.default_rng(1).random(3000) < share
    for question in QUESTIONS:
        expected = twin(LARGE, question, all_words=question == "w0 w0")
        allowed = {row: score for row, score in expected.items() if mask[row]}
        assert_equals_twin(ask(large, question, 50, mask=mask), allowed, 50)


def test_a_mask_does_not_stay(large: KnowledgeBase) -> None:
    before = ask(large, "w5 w9", 10)
    assert ask(large, "w5 w9", 10, mask=np.zeros(3000, dtype=np.bool_)) == []
    assert ask(large, "w5 w9", 10) == before


def test_a_title_counts_as_often_as_it_is_told(kb: KnowledgeBase) -> None:
    write(
        kb,
        [("", "a tower of iron"), ("tower", "made of iron"), ("", "the sea"), ("", "a sky"), ("", "a bird")],
    )
    assert [row for row, _ in ask(kb, "tower", title=3.0)] == [1, 0]
    assert ask(kb, "tower", title=0.0)[-1] == (1, 0.0)


def test_equal_scores_come_by_row(kb: KnowledgeBase) -> None:
    write(kb, [("", "the deep sea"), ("", "a sky")] * 5)
    found = ask(kb, "sea", 3)
    assert [row for row, _ in found] == [0, 2, 4]
    assert len({score for _, score in found}) == 1


def test_changes_are_seen(kb: KnowledgeBase) -> None:
    def found(question: str) -> list[str]:
        return [p.id for p in kb.search(question, mode="lexical")]

    kb.upsert(
        [Passage("a", "the old harbour"), Passage("b", "a quiet street"), Passage("c", "one more", "Harbour")]
    )
    assert sorted(found("harbour")) == ["a", "c"]
    kb.upsert([Passage("a", "the new station")])
    assert found("harbour") == ["c"]
    assert found("station") == ["a"]
    kb.delete(["c"])
    assert found("harbour") == []
    kb.compact()
    assert found("station") == ["a"]
    assert found("street") == ["b"]
    assert [p.score for p in kb.search("station", mode="lexical")] == pytest.approx([twin_of_two()], abs=1e-6)


def twin_of_two() -> float:
    return twin([("", "a quiet street"), ("", "the new station")], "station")[1]


def test_words_are_those_of_the_index() -> None:
    assert question_words('U.S.-based "Café" İstanbul STRASSE straße don\'t x_y 3.5%') == (
        ["u", "s", "based", "cafe", "istanbul", "strasse", "straße", "don", "t", "x", "y", "3", "5"]
    )
    assert question_words("東京 Москва Ἀθῆναι") == ["東京", "москва", "ἀθῆναι"]
    assert question_words("a b a c b") == ["a", "b", "c"]
    assert question_words("?! ... \x00 \t") == []
    assert question_words("") == []
    assert TOKENIZER in SCHEMA


@pytest.mark.parametrize(
    "question",
    [
        'sea AND sky OR NOT "red', "NEAR(sea sky, 2)", "sea*", "^sea", "title:sea", "{title text}: sea", "- sea",
        "sea + sky", "\x00sea\x00", '"', '""sea""', "(sea", "sea;drop table passages", "sea\\", "'sea'", "sea--",
    ],
)  # fmt: skip
def test_nothing_is_an_operator(kb: KnowledgeBase, question: str) -> None:
    documents = [
        ("", "the deep sea"),
        ("", "near nothing"),
        ("", "a title"),
        ("", "and or not"),
        ("", "else"),
    ]
    write(kb, documents)
    plain = "".join(c.lower() if c.isalnum() else " " for c in question)
    assert_equals_twin(ask(kb, question), twin(documents, plain), 10)
    assert 0 in {row for row, _ in ask(kb, question)} or "sea" not in plain


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(st.text(st.characters(exclude_categories=("Cs",)), max_size=60))
def test_any_text_is_a_question(large: KnowledgeBase, question: str) -> None:
    for _, score in ask(large, question + " w77"):
        assert math.isfinite(score)


def test_every_character_is_found_as_it_was_indexed() -> None:
    """A word of the tokenizer, tokenised again, is itself: what is quoted is what was indexed."""
    characters = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) not in ("Cs", "Co", "Cn")]
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for table in ("once", "twice"):
            connection.execute(f"CREATE VIRTUAL TABLE {table} USING fts5(text, tokenize='{TOKENIZER}')")
            connection.execute(f"CREATE VIRTUAL TABLE {table}_words USING fts5vocab({table}, row)")
        connection.executemany("INSERT INTO once VALUES (?)", ((f"a{c}b {c}",) for c in characters))
        connection.execute("INSERT INTO twice SELECT term FROM once_words")
        once, twice = (
            {word for (word,) in connection.execute(f"SELECT term FROM {table}_words")}
            for table in ("once", "twice")
        )
    assert once == twice
    assert len(once) > 100_000


def test_a_very_long_question(large: KnowledgeBase) -> None:
    many = " ".join(f"x{i}" for i in range(5000))
    assert len(question_words(many)) == MAX_WORDS
    assert ask(large, "w77 " + many) == ask(large, "w77")
    assert ask(large, many + " w77") == []
    assert ask(large, "a" * 100_000 + " w77") == ask(large, "w77")


def test_nothing_to_find(kb: KnowledgeBase) -> None:
    assert ask(kb, "sea") == []
    write(kb, [("", "the deep sea")])
    assert ask(kb, "sky") == []
    assert ask(kb, "?!") == []


@pytest.mark.parametrize("before", ["", "a", "ab"])
def test_a_word_that_the_index_cuts_within_a_character(kb: KnowledgeBase, before: str) -> None:
    unbroken = before + "\u4e2d" * 20_000  # Chinese has no spaces
    write(kb, [("", unbroken), ("", "the deep sea")])
    kb.check()
    assert ask(kb, unbroken) == []
    assert [row for row, _ in ask(kb, f"{unbroken} sea")] == [1]
    assert [row for row, _ in ask(kb, "\u4e2d" * 10_922 + " sea")] == [1]
    assert kb.delete(["p0"]) == ["p0"]
    kb.check()
