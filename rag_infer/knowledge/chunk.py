"""Long documents to passages: chunks of a number of tokens or words, each a slice of its document.

A chunk is filled with whole sentences (or words) while the next one fits; the next chunk begins with the last
of them again, as far as the overlap allows. A sentence that is longer than a chunk is cut between words, a word that
is longer between tokens, and never inside a grapheme unless one alone is too long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rag_infer.bundle import Bundle
from rag_infer.knowledge.boundaries import Span
from rag_infer.knowledge.chunk_filling import Filling
from rag_infer.knowledge.chunk_size import Measure, TokenMeasure, WordMeasure
from rag_infer.knowledge.chunk_units import Units
from rag_infer.knowledge.document import Document
from rag_infer.knowledge.passage import Passage
from rag_infer.knowledge.passage_tokens import PassageTokens

# So many chunks in a row are missing only behind the last one: single ones may have been deleted, or left out as
# duplicates.
STALE_AT_ONCE = 64

# What a chunk's metadata say of its place in its document.
CHUNK_FIELDS = ("chunk_document", "chunk_number", "chunk_count", "chunk_start", "chunk_end")

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})*")


@dataclass(frozen=True, kw_only=True)
class ChunkConfig:
    """How documents are cut.

    Attributes:
        size: most tokens or words of a chunk. Tokens are all that the passage encoder reads: title, separator, prefix
            and special tokens count, so that it cuts no chunk. Words are those of the text.
        unit: "tokens" or "words".
        overlap: most tokens or words at the end of a chunk that the next one begins with; below ``size``. Whole
            sentences are repeated where sentences are kept whole, as many as fit.
        sentences: whether sentences are kept whole.
        language: whose rules end a sentence, as a code such as "en"; one that is not known follows English rules.

    Raises:
        TypeError, ValueError: another unit, a size below 1, an overlap below 0 or not below the size.

    >>> ChunkConfig(size=256, overlap=32).unit
    'tokens'
    """

    size: int
    unit: str = "tokens"
    overlap: int = 0
    sentences: bool = True
    language: str = "en"

    def __post_init__(self) -> None:
        if self.unit not in ("tokens", "words"):
            raise ValueError(f"the unit of chunks must be 'tokens' or 'words', not {self.unit!r}")
        for name in ("size", "overlap"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"the {name} of chunks must be an int, got {type(value).__name__}")
        if self.size < 1:
            raise ValueError(f"the size of chunks must be at least 1, got {self.size}")
        if not 0 <= self.overlap < self.size:
            raise ValueError(
                f"the overlap of chunks must be from 0 to below their size of {self.size}, got {self.overlap}"
            )
        if not isinstance(self.language, str) or not _LANGUAGE.fullmatch(self.language):
            raise ValueError(f"a language is a code such as 'en', got {self.language!r}")

    @classmethod
    def dpr(cls) -> ChunkConfig:
        """Disjoint blocks of 100 words, as in Karpukhin et al. 2020 (arXiv 2004.04906, section 4.1).

        Words are what white space separates, as there. Their ``psgs_w100`` fills the last block of an article up from
        its beginning; here it is as long as what is left, since a chunk is one slice of its document.
        """
        return cls(size=100, unit="words", sentences=False)


class Chunker:
    """Makes passages of documents. Safe to share between threads.

    Args:
        config: how to cut.
        bundle: its passage encoder's tokenizer counts the tokens.
        tokens: that tokenizer itself, where the encoder is not from a bundle.

    Raises:
        ValueError: chunks are counted in tokens and not exactly one of ``bundle`` and ``tokens`` is given, or they
            would be longer than the encoder reads.
        BundleError: the bundle is not whole, or has no passage encoder.

    >>> chunker = Chunker(ChunkConfig(size=3, unit="words", overlap=1, sentences=False))
    >>> [p.text for p in chunker.chunks(Document("d", "Paris lies on the Seine."))]
    ['Paris lies on', 'on the Seine.']
    """

    def __init__(
        self,
        config: ChunkConfig,
        *,
        bundle: str | Path | Bundle | None = None,
        tokens: PassageTokens | None = None,
    ) -> None:
        self.config = config
        self._tokens: PassageTokens | None = None
        if config.unit == "tokens":
            if (bundle is None) == (tokens is None):
                raise ValueError("chunks of tokens need either bundle or tokens, to count them with")
            self._tokens = tokens if bundle is None else PassageTokens.from_bundle(bundle)
        if self._tokens is not None and config.size > self._tokens.max_length:
            raise ValueError(
                f"chunks of {config.size} tokens: the passage encoder reads {self._tokens.max_length} of them"
            )

    def chunks(self, document: Document | Passage) -> Iterator[Passage]:
        """The passages of a document, in order.

        Each has the id ``<document id>#<number>`` counted from zero, the document's title, a slice of its text, and its
        metadata with these fields added: ``chunk_document`` (the document's id), ``chunk_number``, ``chunk_count``,
        ``chunk_start`` and ``chunk_end`` (in characters: the text is ``document.text[start:end]``). Together they have
        every character but white space.

        Raises:
            ValueError: the metadata have one of these fields already or leave no room for them, the title leaves no
                room for text, or one character is longer than a chunk. Raised here, before the first passage.
            KnowledgeBaseError: sentencex or regex is not installed.
        """
        taken = [name for name in CHUNK_FIELDS if name in document.metadata]
        if taken:
            raise ValueError(
                f"document {document.id!r} has the metadata field {', '.join(taken)}, in which chunks give their "
                "place: rename it, or do not cut chunks again"
            )
        try:
            spans = list(self.spans(document.text, title=document.title))
        except ValueError as error:
            raise ValueError(f"document {document.id!r} cannot be cut into chunks: {error}") from None
        _passage(
            document, len(spans) - 1, len(spans), spans[-1]
        )  # the longest id and metadata: where these fit, all do
        return (_passage(document, number, len(spans), span) for number, span in enumerate(spans))

    def spans(self, text: str, *, title: str = "") -> Iterator[Span]:
        """Start and end of each chunk of a text, in characters; arguments and errors as `chunks`."""
        config = self.config
        measure: Measure = WordMeasure(config.size)
        if self._tokens is not None:
            measure = TokenMeasure(config.size, self._tokens, title)
        units = Units(text, measure, language=config.language if config.sentences else None)
        return Filling(text, measure, units, overlap=config.overlap).spans()


def chunk_id(document_id: str, number: int) -> str:
    """The id of a document's chunk, counted from zero.

    >>> chunk_id("report", 0)
    'report#0'
    """
    return f"{document_id}#{number}"


def forget_stale_chunks(
    delete: Callable[[list[str]], list[str]], document_id: str, *, count: int
) -> list[str]:
    """Delete chunks which a document had and has no more; returns their ids.

    Args:
        delete: deletes ids and returns those that were there, as `KnowledgeBase.delete`.
        document_id: the document's.
        count: how many chunks it has now.
    """
    stale: list[str] = []
    while there := delete([chunk_id(document_id, count + i) for i in range(STALE_AT_ONCE)]):
        stale += there
        count += STALE_AT_ONCE
    return stale


def _passage(document: Document | Passage, number: int, count: int, span: Span) -> Passage:
    place = dict(zip(CHUNK_FIELDS, (document.id, number, count, *span), strict=True))
    metadata = {**document.metadata, **place}
    return Passage(chunk_id(document.id, number), document.text[slice(*span)], document.title, metadata)
