"""BM25 over titles and texts, by SQLite's FTS5, under a question in natural language.

    BM25(x, z) = sum over the question's words w of  idf(w) * f * (k1 + 1) / (f + k1 * (1 - b + b * |z| / mean |z|))
    idf(w)     = ln((N - n(w) + 0.5) / (n(w) + 0.5)), at least 1e-6

(Robertson & Zaragoza 2009, section 3; the lowest idf, k1 = 1.2 and b = 0.75 are FTS5's). f counts w in the passage,
an occurrence in the title as ``title_weight``; n(w) of N passages have w; |z| counts words.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag_infer.knowledge.schema import read_state

# As the record's table has it: a question is cut into words exactly as the passages were.
TOKENIZER = "unicode61 remove_diacritics 2"
K1 = 1.2
LOWEST_IDF = 1e-6

# A question's further distinct words are not looked for: each is a walk through its passages.
MAX_WORDS = 256

# FTS5 cuts longer words, within a character where it happens so: what is left is no text, and tells nothing.
MAX_WORD_BYTES = 32_767

# Up to here, words that half of the passages have are looked for like others: it takes a few milliseconds.
ALL_WORDS_PASSAGES = 1_000

# Occurrences, in passages, up to which the question is asked as it stands; above, first with its rarest words alone.
PRUNED_ABOVE = 4_000

# How many times more passages each further attempt with the rarest words may look at.
GROWTH = 4


class Word(NamedTuple):
    """A word of the question: how many passages have it, and what it can add to a score at most."""

    text: str
    passages: int
    bound: float


class Hits(NamedTuple):
    """Rows and their scores, best first."""

    scores: NDArray[np.float64]
    rows: NDArray[np.int64]


def lexical_search(
    connection: sqlite3.Connection,
    question: str,
    k: int,
    *,
    mask: NDArray[np.bool_] | None = None,
    title_weight: float = 1.0,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k passages that fit a question's words best by BM25, best first, ties to the lower row.

    Exact with one exception: in a knowledge base of more than 1,000 passages, a word that half of them have or more
    is left out where the question has rarer ones. FTS5 gives such a word an idf of 1e-6: that moves a score by less
    than 2.2e-6, and a passage with none of the other words is not found. Of more than 256 distinct words the first
    count.

    Args:
        connection: to the record; everything is read at its snapshot.
        question: any text. Its words are what FTS5's tokenizer finds; nothing in it is read as an operator.
        k: how many; fewer are returned where fewer have a word of the question.
        mask: bool ``[rows]``: only these rows; None for all.
        title_weight: how many occurrences in the text one in the title is worth.

    Returns:
        (scores float32 ``[<=k]``, rows int64 ``[<=k]``)
    """
    with _filter(connection, mask) as condition:
        ask = _Asking(connection, k, condition, title_weight)
        words = _words_to_ask(connection, question_words(question))
        if sum(word.passages for word in words) > PRUNED_ABOVE:
            found = _pruned(ask, words)
        else:
            found = ask.any_of(words) if words else _best([], k)
    scores = found.scores.astype(np.float32)
    order = np.lexsort((found.rows, -scores))
    return scores[order], found.rows[order]


def question_words(question: str) -> list[str]:
    """The distinct words of a text, as FTS5 would index them, in order of appearance; at most 256.

    Those of over 32,767 bytes are left out: a text without any space is one word.

    >>> question_words('Is "Café" a cafe? NEAR(it, 5)*')
    ['is', 'cafe', 'a', 'near', 'it', '5']
    """
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"CREATE VIRTUAL TABLE question USING fts5(text, tokenize='{TOKENIZER}')")
        connection.execute("CREATE VIRTUAL TABLE words USING fts5vocab(question, instance)")
        connection.execute("INSERT INTO question VALUES (?)", (question,))
        query = "SELECT term FROM words WHERE length(CAST(term AS BLOB)) <= ? ORDER BY offset"
        found = connection.execute(query, (MAX_WORD_BYTES,))
        return list(dict.fromkeys(word for (word,) in found))[:MAX_WORDS]


def _words_to_ask(connection: sqlite3.Connection, words: Sequence[str]) -> list[Word]:
    """Those words that tell passages apart, the rarest first."""
    passages = read_state(connection).passages
    # A word of half of the passages has the lowest idf: there is no need to count further.
    half = (passages + 1) // 2
    query = "SELECT count(*) FROM (SELECT 1 FROM lexical WHERE lexical MATCH ? LIMIT ?)"
    counted = []
    for word in words:
        (count,) = connection.execute(query, (_any_of([word]), max(half, 1))).fetchone()
        if count:
            idf = math.log((passages - count + 0.5) / (count + 0.5)) if count < half else 0.0
            counted.append(Word(word, count, max(idf, LOWEST_IDF) * (K1 + 1)))
    counted.sort(key=lambda word: word.passages)
    rarer = [word for word in counted if word.passages < half]
    return rarer if rarer and passages > ALL_WORDS_PASSAGES else counted


class _Asking(NamedTuple):
    """What all statements of one search have in common."""

    connection: sqlite3.Connection
    k: int
    condition: str
    title_weight: float

    def any_of(self, words: Sequence[Word]) -> Hits:
        """The best among passages with any of the words."""
        return self._best(_any_of([w.text for w in words]))

    def any_of_both(self, words: Sequence[Word], others: Sequence[Word]) -> Hits:
        """The best among passages with any of the words and any of the others."""
        return self._best(f"({_any_of([w.text for w in words])}) AND ({_any_of([w.text for w in others])})")

    def _best(self, match: str) -> Hits:
        query = (
            f"SELECT -bm25(lexical, ?, 1.0) AS score, rowid FROM lexical WHERE lexical MATCH ?{self.condition} "
            "ORDER BY score DESC, rowid LIMIT ?"
        )
        return _best(self.connection.execute(query, (self.title_weight, match, self.k)).fetchall(), self.k)


def _pruned(ask: _Asking, words: Sequence[Word]) -> Hits:
    """As ``ask.any_of(words)``, without looking at passages that have common words only where they cannot win.

    Max-score (Turtle & Flood 1995): once the k-th best score under the rarest words alone is above all that the other
    words can add up to, every passage of the result has one of the rarest.
    """
    passages = np.cumsum([word.passages for word in words])
    others = np.append(
        np.cumsum([word.bound for word in words[:0:-1]])[::-1], 0.0
    )  # bounds of those after each
    last = len(words) - 1
    end = min(last, int(np.searchsorted(passages, GROWTH * ask.k)))
    while end < last:
        partial = ask.any_of(words[: end + 1])
        reached = partial.scores[-1] if len(partial.rows) == ask.k else -np.inf
        if reached > others[end]:
            return _joined(partial, ask.any_of_both(words[: end + 1], words[end + 1 :]), ask.k)
        enough = int(np.argmax(others < reached)) if reached > 0 else last
        end = max(end + 1, min(enough, last, int(np.searchsorted(passages, GROWTH * passages[end]))))
    return ask.any_of(words)


def _joined(partial: Hits, full: Hits, k: int) -> Hits:
    """The k best by their whole score.

    ``full`` has the whole score of the best rows with any of the other words; a row that is in ``partial`` alone
    either has none of them, so that its score there is its whole one, or is not among the k best.
    """
    scores = dict(zip(partial.rows.tolist(), partial.scores.tolist(), strict=True))
    scores |= dict(zip(full.rows.tolist(), full.scores.tolist(), strict=True))
    return _best([(score, row) for row, score in scores.items()], k)


def _best(found: Sequence[tuple[float, int]], k: int) -> Hits:
    ordered = sorted(found, key=lambda hit: (-hit[0], hit[1]))[:k]
    return Hits(
        np.array([score for score, _ in ordered], dtype=np.float64),
        np.array([row for _, row in ordered], dtype=np.int64),
    )


def _any_of(words: Sequence[str]) -> str:
    """An FTS5 query. In quotes nothing but a quote has a meaning, and the tokenizer leaves none in a word."""
    return " OR ".join(f'"{word}"' for word in words)


@contextlib.contextmanager
def _filter(connection: sqlite3.Connection, mask: NDArray[np.bool_] | None) -> Iterator[str]:
    """The condition that keeps to the rows of a mask; SQLite asks it before it works out a score."""
    if mask is None:
        yield ""
        return
    allowed = mask.tobytes()

    def is_allowed(row: int) -> bool:
        return row < len(allowed) and allowed[row] != 0

    connection.create_function("is_allowed", 1, is_allowed, deterministic=True)
    try:
        yield " AND is_allowed(rowid)"
    finally:
        connection.create_function("is_allowed", 1, None)
