"""A small encoder that is a real one: words hashed to directions, summed. Similar texts get similar vectors."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class HashingEncoder:
    """Sums of a seeded random direction per word.

    Attributes:
        encoded: texts encoded so far, to see that no work is done twice.
    """

    max_length = 512

    def __init__(self, dim: int = 16, *, similarity: str = "dot", seed: int = 0) -> None:
        self.dim = dim
        self.similarity = similarity
        self.seed = seed
        self.fingerprint = f"hashing-{dim}-{similarity}-{seed}"
        self.encoded = 0

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.encoded += len(texts)
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for i, text in enumerate(texts):
            for word in text.lower().split():
                generator = np.random.default_rng([self.seed, zlib.crc32(word.encode())])
                vectors[i] += generator.standard_normal(self.dim, dtype=np.float32)
        return vectors
