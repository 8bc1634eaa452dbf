"""Exact match and F1 as SQuAD defines them (Rajpurkar et al. 2016, the official evaluation script's rules)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, articles (a, an, the) and superfluous white space.

    >>> normalise_answer("The  Eiffel Tower!")
    'eiffel tower'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """1.0 where both are the same once normalised, else 0.0.

    >>> exact_match("the 308", "308")
    1.0
    """
    return float(normalise_answer(prediction) == normalise_answer(answer))


def f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall over normalised words.

    >>> round(f1("in Paris, France", "Paris"), 3)
    0.5
    """
    predicted, expected = normalise_answer(prediction).split(), normalise_answer(answer).split()
    if not predicted or not expected:
        return float(predicted == expected)
    shared = sum((Counter(predicted) & Counter(expected)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def best_over(metric: Callable[[str, str], float], prediction: str, answers: Sequence[str]) -> float:
    """The metric's best value over the accepted answers; 0.0 where there are none."""
    return max((metric(prediction, a) for a in answers), default=0.0)
