"""How long a chunk is: in words of its text, or in tokens of all that the passage encoder reads."""

from __future__ import annotations

from typing import Protocol

from rag_infer.knowledge.passage import MAX_PASSAGE_BYTES, Passage, passage_text
from rag_infer.knowledge.passage_tokens import PassageTokens

# A passage of this many characters is within the bytes that one may have, whatever they are.
MAX_CHARACTERS = MAX_PASSAGE_BYTES // 4

# Where only graphemes are left to cut at, they are taken in runs of this part of a chunk.
RUNS_PER_CHUNK = 16


class Measure(Protocol):
    """How long texts are, for the chunks of one document.

    Attributes:
        budget: what the text of a chunk may cost.
        max_characters: how many characters it may have.
        run: characters in a run of graphemes.
    """

    budget: int
    max_characters: int
    run: int

    def costs(self, pieces: list[str]) -> list[int]:
        """What each piece of the text costs by itself."""
        ...

    def token_ends(self, piece: str) -> list[int]:
        """Where tokens end in a piece; empty where that says nothing."""
        ...

    def excess(self, text: str) -> int:
        """By how much a chunk with this text would be over its size; 0 or less where it is not."""
        ...


class WordMeasure:
    """Words, as `str.split` finds them."""

    def __init__(self, size: int) -> None:
        self.budget = size
        self.max_characters = MAX_CHARACTERS
        self.run = MAX_CHARACTERS // RUNS_PER_CHUNK

    def costs(self, pieces: list[str]) -> list[int]:
        """Words of each piece."""
        return [len(piece.split()) for piece in pieces]

    def token_ends(self, piece: str) -> list[int]:  # noqa: ARG002 (words have no tokens)
        """Nothing: a word has no smaller unit but characters."""
        return []

    def excess(self, text: str) -> int:
        """Words over the size."""
        return len(text.split()) - self.budget


class TokenMeasure:
    """Tokens of the passage encoder, which reads the title, its prefix and its special tokens too.

    Raises:
        ValueError: the title leaves no room for text.
    """

    def __init__(self, size: int, tokens: PassageTokens, title: str) -> None:
        # What `passage_text` puts before a text; a passage with no text is refused.
        before = passage_text(Passage("x", "x", title)).removesuffix("x")
        self.budget = size - tokens.of_text(before)
        self.max_characters = min(MAX_CHARACTERS, tokens.max_characters - len(before))
        if self.budget < 1 or self.max_characters < 1:
            raise ValueError(
                f"title and special tokens take {size - self.budget} of the {size} tokens and {len(before)} of the "
                f"{tokens.max_characters} characters of a chunk: no room for text; make it shorter or the size larger"
            )
        self.run = max(1, min(self.budget, self.max_characters) // RUNS_PER_CHUNK)
        self._size = size
        self._tokens = tokens
        self._before = before

    def costs(self, pieces: list[str]) -> list[int]:
        """Tokens of each piece by itself."""
        return self._tokens.of_pieces(pieces)

    def token_ends(self, piece: str) -> list[int]:
        """Where tokens end in a piece."""
        return self._tokens.ends(piece)

    def excess(self, text: str) -> int:
        """Tokens over the size, of exactly what the encoder would read."""
        return self._tokens.of_text(self._before + text) - self._size
