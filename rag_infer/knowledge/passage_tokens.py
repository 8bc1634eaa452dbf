"""How many tokens a passage encoder reads of a text, without the encoder's weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rag_infer.bundle import Bundle
from rag_infer.encode import CHARACTERS_PER_TOKEN, text_as_read
from rag_infer.errors import BundleError
from rag_infer.text import Tokenizer


class PassageTokens:
    """The tokenizer of a passage encoder, as a measure of length. Safe to share between threads.

    Args:
        tokenizer: the encoder's.
        max_length: tokens the encoder reads of a text, special tokens included.
        prefix: text the encoder puts before every text.

    Attributes:
        max_length: as given.
        max_characters: the encoder reads no more characters than this of a text, however few tokens they are.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int, prefix: str = "") -> None:
        self._tokenizer = tokenizer
        self._prefix = prefix
        self.max_length = max_length
        self.max_characters = max_length * CHARACTERS_PER_TOKEN

    @classmethod
    def from_bundle(cls, bundle: str | Path | Bundle) -> PassageTokens:
        """Load the tokenizer of a bundle's passage encoder.

        Raises:
            BundleError: the bundle is not whole, or has no passage encoder.
        """
        loaded = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle, check="graphs")
        part = loaded.manifest.passage_encoder
        if part is None:
            raise BundleError(f"the bundle {loaded.folder} has no passage encoder")
        tokenizer = Tokenizer(loaded.file(part, "tokenizer.json"))
        return cls(tokenizer, max_length=part.max_length, prefix=part.prefix)

    def of_text(self, text: str) -> int:
        """Tokens of a whole text as the encoder would read it uncut: prefix and special tokens count."""
        read = text_as_read(self._tokenizer, self._prefix, text)
        return len(self._tokenizer.encode(read, add_special_tokens=True))

    def of_pieces(self, pieces: Sequence[str]) -> list[int]:
        """Tokens of each piece of a text; prefix and special tokens do not count."""
        read = [text_as_read(self._tokenizer, "", piece) for piece in pieces]
        return [len(row) for row in self._tokenizer.encode_batch(read)]

    def ends(self, piece: str) -> list[int]:
        """Where each token of a piece ends in it; empty where the encoder would read it altered."""
        if text_as_read(self._tokenizer, "", piece) != piece:
            return []
        return self._tokenizer.token_ends(piece)
