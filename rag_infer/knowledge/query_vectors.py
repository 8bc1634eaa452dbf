"""The vectors of questions that may be texts, images, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class QueryVectors:
    """Vectors of questions, each modality by itself.

    Attributes:
        text: float32 ``[questions, text_dim]``, zeros where a question has no text.
        image: float32 ``[questions, image_dim]``, zeros where a question has no image.
        has_text, has_image: bool ``[questions]``.
    """

    text: NDArray[np.float32]
    image: NDArray[np.float32]
    has_text: NDArray[np.bool_]
    has_image: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.text)

    @classmethod
    def empty(cls, questions: int, text_dim: int, image_dim: int) -> QueryVectors:
        """Without any yet."""
        return cls(
            np.zeros((questions, text_dim), dtype=np.float32),
            np.zeros((questions, image_dim), dtype=np.float32),
            np.zeros(questions, dtype=np.bool_),
            np.zeros(questions, dtype=np.bool_),
        )

    @classmethod
    def of_texts(cls, vectors: NDArray[np.float32], image_dim: int) -> QueryVectors:
        """Questions that are texts alone."""
        made = cls.empty(len(vectors), vectors.shape[1], image_dim)
        made.put_texts(range(len(vectors)), vectors)
        return made

    def put_texts(self, places: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """Set the vectors of some questions' texts."""
        self.text[list(places)] = vectors
        self.has_text[list(places)] = True

    def put_images(self, places: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """Set the vectors of some questions' images."""
        self.image[list(places)] = vectors
        self.has_image[list(places)] = True
