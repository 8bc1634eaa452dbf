"""Texts to vectors, with an encoder of a bundle."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rag_infer.bundle import Bundle
from rag_infer.errors import BundleError, RagInferWarning
from rag_infer.parts import EncoderPart
from rag_infer.session import Session
from rag_infer.text import Tokenizer, bucket, clean, pad

# Tokens, padding included, in one run: large enough to keep the cores busy, small enough for their caches.
TOKENS_PER_RUN = 4096

# A text of more characters than this per kept token is cut before it is tokenised: tokenising is linear,
# but a megabyte of it would be for nothing. No tokenizer's average token is as long.
CHARACTERS_PER_TOKEN = 32


def text_as_read(tokenizer: Tokenizer, prefix: str, text: str) -> str:
    """What an encoder tokenises of a text: no control characters, nothing that reads as a special token."""
    return tokenizer.defuse(prefix + clean(text))


class TextEncoder:
    """A question or passage encoder. Safe to share between threads.

    Attributes:
        dim: width of the vectors.
        max_length: tokens kept per text, special tokens included.
        similarity: "dot" or "cosine", how the bundle compares vectors.
        fingerprint: changes whenever the encoder would give other vectors.
    """

    def __init__(
        self, session: Session, tokenizer: Tokenizer, part: EncoderPart, *, similarity: str, fingerprint: str
    ) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._part = part
        self.dim = part.dim
        self.max_length = part.max_length
        self.similarity = similarity
        self.fingerprint = fingerprint

    @classmethod
    def from_bundle(
        cls, bundle: Bundle, part: EncoderPart | None, *, device: str = "cpu", threads: int | None = None
    ) -> TextEncoder:
        """Load one encoder of a bundle.

        Raises:
            BundleError: the bundle has no such part, or its files cannot be loaded.
            DeviceError: the device is not to be had, or int8 does not run on it.
        """
        if part is None:
            raise BundleError(f"the bundle {bundle.folder} has no such encoder")
        bundle.check_device(device)
        session = Session(bundle.file(part, part.graph), device=device, threads=threads)
        tokenizer = Tokenizer(bundle.file(part, "tokenizer.json"))
        similarity = bundle.manifest.retrieval.similarity
        return cls(session, tokenizer, part, similarity=similarity, fingerprint=bundle.fingerprint(part))

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts.

        Texts longer than ``max_length`` tokens are cut; control characters are dropped.

        Args:
            texts: any number of texts; a single string is a mistake and refused.

        Returns:
            float32 ``[texts, dim]``, of length 1 where the encoder normalises.

        Raises:
            TypeError: ``texts`` is a string or holds something else than strings.
        """
        return self.encode_tokens(self.tokenise(texts))

    def encode_tokens(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Vectors of texts that `tokenise` has read: float32 ``[texts, dim]``."""
        vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        for members in _batches_by_length(rows):
            ids, mask = pad([rows[i] for i in members], pad_id=0)
            vectors[members] = self._session.run({"input_ids": ids, "attention_mask": mask})[0]
        return vectors

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, as the model reads them; arguments and errors as `encode`."""
        if isinstance(texts, str):
            raise TypeError("texts must be a sequence of strings, not one string")
        limit = self.max_length * CHARACTERS_PER_TOKEN
        prepared = []
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"a text must be a string, got {type(text).__name__}")
            prepared.append(text_as_read(self._tokenizer, self._part.prefix, text[:limit]))
        rows = self._tokenizer.encode_batch(prepared, add_special_tokens=True)
        return [self._cut(row, self._tokenizer.num_special_tokens()) for row in rows]

    def _cut(self, row: list[int], special: int) -> list[int]:
        """A row of at most ``max_length`` tokens; the closing special token (BERT's [SEP]) is kept."""
        if len(row) <= self.max_length:
            return row
        return row[: self.max_length - 1] + row[-1:] if special > 1 else row[: self.max_length]


class Encoder(Protocol):
    """What `encode_question` needs; `TextEncoder` is one."""

    @property
    def max_length(self) -> int:
        """Tokens read of a text."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts, float32 ``[texts, dim]``."""
        ...


def encode_question(encoder: Encoder, questions: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of questions, float32 ``[questions, dim]``; warns as `warn_of_long_questions`."""
    warn_of_long_questions(encoder, questions)
    return encoder.encode(questions)


def warn_of_long_questions(encoder: Encoder, questions: Sequence[str]) -> None:
    """Warn where a question is so long that its end cannot be read."""
    limit = encoder.max_length * CHARACTERS_PER_TOKEN
    for question in questions:
        if len(question) > limit:
            message = (
                f"a question of {len(question)} characters was cut to {encoder.max_length} tokens for search"
            )
            warnings.warn(message, RagInferWarning, stacklevel=4)


def _batches_by_length(rows: Sequence[Sequence[Any]]) -> Iterator[NDArray[np.intp]]:
    """Indices of rows in runs of similar length, so that little is padding."""
    order = np.argsort([len(r) for r in rows], kind="stable")
    start = 0
    while start < len(order):
        # Sorted ascending: the width of a run is that of its last row.
        end = start + 1
        while end < len(order) and bucket(len(rows[order[end]])) * (end + 1 - start) <= TOKENS_PER_RUN:
            end += 1
        yield order[start:end]
        start = end
