"""Where a text may be cut: between sentences, words, graphemes.

Sentences are found by sentencex (Wikimedia), because it is maintained, works offline without a model, knows the
abbreviations of many languages (others follow English rules), is a wheel of 1.2 MB with no dependencies, and reads
over a megabyte a second. pysbd is a hundred times slower and no longer maintained, blingfire has 42 MB, syntok knows
three languages. Graphemes (UAX 29) are those of the regex package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import ModuleType

from rag_infer.errors import KnowledgeBaseError

Span = tuple[int, int]

# sentencex takes time quadratic in the quotation marks of one call; a window of this many characters bounds it.
WINDOW_CHARACTERS = 16_384

_WORD = re.compile(r"\S+")
# sentencex 1.0.32 panics at "A\u2028.": it takes any white space before a full stop to be one byte.
_WIDE_LINE_END = re.compile("[\x85\u2028\u2029]")
_WIDE_SPACE = re.compile(r"[^\S\x00-\x7f]")


def sentences(text: str, language: str) -> Iterator[Span]:
    """The sentences of a text in order, without the white space around them; every other character is in one.

    A sentence of more than 16,384 characters comes in several pieces.

    Args:
        text: of any length.
        language: its code, such as "en".

    Raises:
        KnowledgeBaseError: sentencex or regex is not installed.
    """
    return _trimmed(text, _sentences_with_space(text, language))


def words(text: str, start: int = 0, end: int | None = None) -> Iterator[Span]:
    r"""What white space separates, as `str.split` does; a combining mark after a space keeps that space.

    >>> list(words("Paris is  old."))
    [(0, 5), (6, 8), (10, 14)]
    """
    found = _WORD.finditer(text, start, len(text) if end is None else end)
    return _trimmed(text, (match.span() for match in found))


def graphemes(text: str, start: int, end: int) -> Iterator[Span]:
    """What a reader sees as one character (UAX 29): a letter with its marks, a flag, a family of emoji."""
    return (match.span() for match in _regex().finditer(r"\X", text, pos=start, endpos=end))


def _sentences_with_space(text: str, language: str) -> Iterator[Span]:
    start = 0
    for end in _sentence_ends(text, language):
        if end == len(text) or _is_safe_cut(text, end):
            yield start, end
            start = end


def _sentence_ends(text: str, language: str) -> Iterator[int]:
    """Ends of sentences; the white space between two belongs to either of them. The last one is that of the text."""
    start = 0
    while start < len(text):
        end = min(len(text), start + WINDOW_CHARACTERS)
        window = _WIDE_SPACE.sub(" ", _WIDE_LINE_END.sub("\n", text[start:end]))
        ends = [start + position for position in _ends_in_window(window, language)]
        if end < len(text):
            # The last sentence may go on behind the window, and is read again from its beginning.
            ends = ends[:-1] or [_last_space(text, start, end)]
        else:
            ends[-1:] = [end]
        yield from ends
        start = ends[-1]


def _ends_in_window(window: str, language: str) -> list[int]:
    ends = []
    position = 0
    for sentence in _module("sentencex").segment(language, window):
        # Above 10,240 bytes sentencex 1.0.32 leaves out the blank lines between some paragraphs.
        begin = window.find(sentence, position)
        if begin < 0 or window[position:begin].strip():
            raise KnowledgeBaseError(f"sentencex returned {sentence!r}, which does not come next in the text")
        position = begin + len(sentence)
        ends.append(position)
    return ends


def _last_space(text: str, start: int, end: int) -> int:
    """Where the last white space begins, or ``end`` where there is none."""
    for position in range(end - 1, start, -1):
        if text[position].isspace():
            return position
    return end


def _trimmed(text: str, spans: Iterator[Span]) -> Iterator[Span]:
    """Spans without the white space around them, empty ones left out; those that share a grapheme become one."""
    held: Span | None = None
    for start, end in spans:
        while start < end and text[end - 1].isspace():
            end -= 1
        while start < end and text[start].isspace():
            start += 1
        if start == end:
            continue
        # A space may belong to the grapheme beside it: a combining mark after it, an Arabic number sign before it.
        if start > 0 and not _is_safe_cut(text, start):
            start -= 1
        if end < len(text) and not _is_safe_cut(text, end):
            end += 1
        if held is not None and start < held[1]:
            held = (held[0], end)
            continue
        if held is not None:
            yield held
        held = (start, end)
    if held is not None:
        yield held


def _is_safe_cut(text: str, position: int) -> bool:
    """Whether no grapheme has a character on either side; False also where only a longer look could tell."""
    around = text[position - 1 : position + 1]
    if around.isascii():
        return around != "\r\n"
    regex = _regex()
    if not around[1].isspace() and regex.match(r"[\p{M}\p{RI}\u200c\u200d]", around):
        return False
    return bool(regex.match(r"\X", around).end() == 1)


def _regex() -> ModuleType:
    return _module("regex")


def _module(name: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise KnowledgeBaseError(f"cutting documents needs {name} (pip install 'rag_infer[chunk]')") from None
