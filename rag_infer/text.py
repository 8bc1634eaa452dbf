"""Text to token ids and back, with the tokenizer file of a bundle's part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import BundleError

if TYPE_CHECKING:
    import tokenizers

# Padded lengths are multiples of this: few distinct shapes keep ONNX Runtime's arena small.
LENGTH_BUCKET = 8
# Slots of a generator's cache are allocated in multiples of this.
SLOT_BUCKET = 32

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def clean(text: str) -> str:
    r"""Text without control characters (category Cc but tab and line ends) and lone surrogates.

    >>> clean("What\x00 is\tthis?\n")
    'What is\tthis?\n'
    """
    return _CONTROL.sub("", text)


def check_question(question: object) -> str:
    """The question, if it is a text with something to read in it.

    Raises:
        TypeError: not a string.
        ValueError: nothing but space and control characters.
    """
    if not isinstance(question, str):
        raise TypeError(f"a question must be a string, got {type(question).__name__}")
    if not clean(question).strip():
        raise ValueError("the question is empty")
    return question


def bucket(length: int, multiple: int = LENGTH_BUCKET) -> int:
    """The next multiple of ``multiple`` that holds ``length``, at least one multiple.

    >>> bucket(1), bucket(8), bucket(9)
    (8, 8, 16)
    """
    return max(1, -(-length // multiple)) * multiple


def larger_capacity(capacity: int, slots: int) -> int:
    """What a cache of ``capacity`` slots grows to for ``slots``: by half at least, so that long answers copy it seldom.

    >>> larger_capacity(64, 65), larger_capacity(0, 40), larger_capacity(320, 321)
    (96, 64, 480)
    """
    return bucket(max(slots, capacity * 3 // 2), SLOT_BUCKET)


class Tokenizer:
    """A ``tokenizer.json``, without padding or truncation of its own.

    Raises:
        BundleError: the file is missing or is no tokenizer.
    """

    def __init__(self, path: Path) -> None:
        import tokenizers

        try:
            self._tokenizer: tokenizers.Tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path} cannot be read as a tokenizer: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._special = sorted((t.content for t in added if t.special), key=len, reverse=True)
        self.special_tokens = frozenset(self._special)

    def defuse(self, text: str) -> str:
        """Text in which nothing is read as a special token, so that no question or passage can end its turn."""
        for token in self._special:
            if token in text:
                # A token of one character cannot be broken, only left out.
                text = text.replace(token, token[:1] + " " + token[1:] if len(token) > 1 else "")
        return text

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of one text."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool = False) -> list[list[int]]:
        """Token ids of several texts."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return [list(e.ids) for e in encodings]

    def token_ends(self, text: str) -> list[int]:
        """Where each token of one text ends, in characters; tokens that share a character share its end."""
        return [end for _, end in self._tokenizer.encode(text, add_special_tokens=False).offsets]

    def encode_text(self, text: str, *, max_length: int | None = None) -> list[int]:
        """Token ids of one text with its special tokens; at most ``max_length``, the end of the text cut."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        if max_length is not None:
            encoding.truncate(max(0, max_length - self.num_special_tokens()))
        return list(self._tokenizer.post_process(encoding, None, True).ids)

    def cut(self, text: str, max_tokens: int) -> str:
        """A beginning of ``text`` of at most ``max_tokens`` tokens, the longest but for a character or two."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        if len(encoding.ids) <= max_tokens:
            return text
        end = encoding.offsets[max_tokens - 1][1] if max_tokens > 0 else 0
        # A token that ends inside a character has the offset of its end; and what is cut may be tokenised anew.
        while end > 0 and len(self.encode(text[:end])) > max_tokens:
            end -= 1
        return text[:end]

    def num_special_tokens(self) -> int:
        """Special tokens that are added to a single text."""
        return int(self._tokenizer.num_special_tokens_to_add(False))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def token_to_id(self, token: str) -> int | None:
        """The id of a token's exact text, or None."""
        found = self._tokenizer.token_to_id(token)
        return None if found is None else int(found)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))


def pad(
    rows: Sequence[Sequence[int]], pad_id: int, *, multiple: int = LENGTH_BUCKET
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of unequal length as right-padded ids and their attention mask.

    Returns:
        (ids, mask), both int64 ``[rows, tokens]``; tokens is a multiple of ``multiple``.

    >>> ids, mask = pad([[5, 6], [7]], pad_id=0, multiple=2)
    >>> ids.tolist(), mask.tolist()
    ([[5, 6], [7, 0]], [[1, 1], [1, 0]])
    """
    width = bucket(max((len(r) for r in rows), default=0), multiple)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask
