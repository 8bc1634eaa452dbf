"""What is asked: a text, an image, or both."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from rag_infer.images.image import Image
from rag_infer.text import check_question

if TYPE_CHECKING:
    from PIL import Image as Pillow

# A string is always text; an image is a path object, bytes, a PIL image, a uint8 array or a mapping.
Question: TypeAlias = Union[
    str, "Query", Mapping[str, Any], os.PathLike[str], bytes, NDArray[np.uint8], "Pillow.Image"
]


@dataclass(frozen=True)
class Query:
    """A question: text, image, or both.

    Attributes:
        text: what is asked, or "".
        image: an `Image`; made of a path, bytes, a PIL image, a uint8 array or ``{"image": one of these}``.

    Raises:
        TypeError: a text that is no string, or an image that is none.
        ValueError: neither text nor image, or a text without anything to read.
        ImageError: the image cannot be read; an address, for nothing is fetched.

    >>> Query("Where is the longest river?").text
    'Where is the longest river?'
    """

    text: str = ""
    image: Any = None

    def __post_init__(self) -> None:
        if self.image is not None:
            object.__setattr__(self, "image", Image.of(self.image))
        if self.image is None or self.text != "":
            check_question(self.text)

    @classmethod
    def of(cls, question: Question) -> Query:
        """A query as it is, a string as text, a mapping with "text" and "image", and anything else as an image.

        Raises:
            TypeError, ValueError, ImageError: as `Query`.
        """
        if isinstance(question, Query):
            return question
        if isinstance(question, str):
            return cls(check_question(question))
        if isinstance(question, Mapping):
            unknown = sorted(map(str, set(question) - {"text", "image"}))
            if unknown or not question:
                raise TypeError(f"a question given as a mapping has 'text', 'image' or both, got {unknown}")
            return cls(question.get("text") or "", question.get("image"))
        if question is None or isinstance(question, bool | int | float | list | tuple):
            raise TypeError(
                f"a question must be a string, got {type(question).__name__} (or an image, or a Query)"
            )
        return cls(image=question)


def is_one_question(questions: object) -> bool:
    """Whether this is a question, and no sequence of them."""
    if isinstance(questions, np.ndarray):
        return bool(questions.dtype == np.uint8)
    single = (str, bytes, bytearray, memoryview, Query, Mapping, os.PathLike)
    return isinstance(questions, single) or not isinstance(questions, Iterable)


def as_queries(questions: Any) -> list[Query]:
    """The queries of one question, or of a sequence of them.

    Raises:
        TypeError, ValueError, ImageError: as `Query`.
    """
    return [Query.of(q) for q in ([questions] if is_one_question(questions) else questions)]
