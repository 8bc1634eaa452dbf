"""An answer for people: text, passages with prior and posterior, and which passage each token came from."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from rag_infer.answer import Answer, AnswerPassage, Token

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Foreground colours that are legible on light and dark grounds: blue, green, magenta, cyan, yellow, red.
COLOURS = (34, 32, 35, 36, 33, 31)


def shorten(text: str, width: int) -> str:
    """One line of at most ``width`` characters.

    >>> shorten("a  long line", 8)
    'a long …'
    """
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def coloured(stream: TextIO) -> bool:
    """Whether to colour: a terminal, and NO_COLOR is not set."""
    return stream.isatty() and "NO_COLOR" not in os.environ


def show_answer(answer: Answer, *, explain: bool = True, stream: TextIO | None = None) -> None:
    """Print an answer.

    With ``explain``: each passage has a letter (a colour on a terminal), and below the answer stands, under each
    token, the letter of the passage with the highest posterior for it; small where that is below one half.
    """
    out = stream or sys.stdout
    colour = coloured(out)
    if not explain:
        print(answer.text, file=out)
        return
    asked = [answer.question, f"[{answer.question_image.name}]" if answer.question_image else ""]
    print(f"Q: {' '.join(filter(None, asked))}\nA: {answer.text}", file=out)
    print(f"   log p(y|x) = {answer.score:.3f}, {answer.timings.get('total', 0.0):.0f} ms", file=out)
    print("      prior  posterior  score   passage", file=out)
    for i, passage in enumerate(answer.passages):
        line = f"   {letter(i)}  {passage.prior:.3f}  {passage.posterior:.3f}      {passage.score:.4f}  "
        print(line + paint(shorten(_said(passage), 70), i, on=colour), file=out)
    for line in _token_lines(answer.tokens, colour=colour):
        print("   " + line, file=out)


def _said(passage: AnswerPassage) -> str:
    """What a passage says; of an image alone, its id."""
    if not passage.text:
        return passage.title or f"[{passage.id}]"
    return f"{passage.title}: {passage.text}"


def show_parity(parity: Mapping[str, Any]) -> None:
    """Print an export's report: a line for each part, and one for each comparison of tokens."""
    for name, report in parity.items():
        limits = report["limits_against_pytorch"]
        figures = [f"{k} {v:.2g} (limit {limits[k]:.2g})" for k, v in report["against_pytorch"].items()]
        print(f"  {name}: {report['checkpoint']}, against PyTorch: {', '.join(figures)}")
        tokens = report.get("greedy_tokens_of_transformers")
        if tokens:
            print(
                f"    greedy tokens: {tokens['equal']} of {tokens['tokens']} equal to transformers' generate"
            )
        agreement = report.get("agreement_with_fp32")
        if agreement:
            share, count = agreement["token_agreement"], agreement["tokens"]
            print(
                f"    token agreement with fp32: {share:.3f} of {count} tokens, {agreement['prompts']} prompts"
            )


def letter(index: int) -> str:
    """The letter of the passage at an index; past Z they repeat."""
    return LETTERS[index % len(LETTERS)]


def paint(text: str, index: int, *, on: bool) -> str:
    """Text in the colour of a passage."""
    return f"\x1b[{COLOURS[index % len(COLOURS)]}m{text}\x1b[0m" if on else text


def _token_lines(tokens: Sequence[Token], *, colour: bool) -> list[str]:
    """The tokens in one line, and the letters of their passages beneath."""
    words, marks = "", ""
    for token in tokens:
        best = int(np.argmax(token.posterior))
        mark = letter(best) if token.posterior[best] >= 0.5 else letter(best).lower()
        text = token.text.replace("\n", " ") or "·"
        width = max(len(text), 2)
        words += paint(text.ljust(width), best, on=colour)
        marks += mark.rjust(len(text) - len(text.lstrip()) + 1).ljust(width)
    return [f"tokens:  {words}", f"from:    {marks}".rstrip()]
