"""A document: a text of any length that is cut into passages before it is searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rag_infer.knowledge.passage import Passage

MAX_DOCUMENT_BYTES = 64_000_000


@dataclass(frozen=True)
class Document:
    """A text that is too long to be one passage; `rag_infer.knowledge.Chunker` makes passages of it.

    Attributes:
        id: its name, unique in the knowledge base; long ones leave no room for a chunk's number (see `Passage`).
        text: what it says, at most 64,000,000 bytes of UTF-8.
        title: where it is from, or "".
        metadata: fields to filter by; every passage made of it has them.

    Raises:
        TypeError: an attribute of another type, or a metadata value that JSON cannot hold.
        ValueError: an empty id or text, a text that is too long, or one that is no Unicode text.

    >>> Document("d1", "One sentence. Another one.", title="Two sentences").metadata
    {}
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What a passage refuses is refused here, before the work.
        Passage(self.id, "text", self.title, self.metadata)
        if not isinstance(self.text, str):
            raise TypeError(f"text must be a string, got {type(self.text).__name__}")
        if not self.text or self.text.isspace():
            raise ValueError(f"document {self.id!r} has an empty text")
        try:
            size = len(self.text.encode())
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text of document {self.id!r} has the lone surrogate {self.text[error.start]!r} at character "
                f"{error.start}: not Unicode text"
            ) from None
        if size > MAX_DOCUMENT_BYTES:
            raise ValueError(
                f"document {self.id!r} has a text of {size:,} bytes, over {MAX_DOCUMENT_BYTES:,}: split it"
            )
