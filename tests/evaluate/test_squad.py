"""The metrics on cases whose values the official SQuAD script gives."""

from __future__ import annotations

import pytest

from rag_infer.evaluate.squad import best_over, exact_match, f1, normalise_answer


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The Cat", "cat"),
        ("a  man,   a plan", "man plan"),
        ("U.S.A.", "usa"),
        ("1,000", "1000"),
        ("theatre", "theatre"),
        ("An-other", "another"),
        ("", ""),
        ("the", ""),
        ("Beyoncé!", "beyoncé"),
        ("“quoted”", "“quoted”"),
    ],
)
def test_normalise(text: str, normalised: str) -> None:
    assert normalise_answer(text) == normalised


@pytest.mark.parametrize(
    ("prediction", "answer", "em", "overlap"),
    [
        ("Denver Broncos", "Denver Broncos", 1.0, 1.0),
        ("the Denver Broncos.", "Denver Broncos", 1.0, 1.0),
        ("Denver", "Denver Broncos", 0.0, 2 / 3),
        ("Carolina Panthers", "Denver Broncos", 0.0, 0.0),
        ("the cat sat on the mat", "a cat on mat", 0.0, 6 / 7),
        ("cat cat", "cat", 0.0, 2 / 3),
        ("", "", 1.0, 1.0),
        ("", "something", 0.0, 0.0),
        ("the", "a", 1.0, 1.0),
    ],
)
def test_metrics(prediction: str, answer: str, em: float, overlap: float) -> None:
    assert exact_match(prediction, answer) == em
    assert f1(prediction, answer) == pytest.approx(overlap)


def test_best_over_answers() -> None:
    assert best_over(exact_match, "308", ["three hundred", "308"]) == 1.0
    assert best_over(f1, "x", []) == 0.0
