"""The encoders a knowledge base uses: loaded when first needed, recognised by their fingerprint."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rag_infer.bundle import Bundle
from rag_infer.encode import TextEncoder, encode_question
from rag_infer.errors import BundleError
from rag_infer.parts import EncoderPart


class Encoder(Protocol):
    """What a knowledge base asks of an encoder; `rag_infer.TextEncoder` is one.

    Attributes:
        dim: width of the vectors.
        fingerprint: changes whenever the encoder would give other vectors.
        similarity: "dot" or "cosine".
        max_length: tokens read of a text.
    """

    @property
    def dim(self) -> int: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def similarity(self) -> str: ...  # noqa: D102
    @property
    def max_length(self) -> int: ...  # noqa: D102

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts, float32 ``[texts, dim]``."""
        ...


class Encoders:
    """The encoder of passages and that of questions.

    Attributes:
        dim, similarity, fingerprint: of the passage encoder.
    """

    dim: int
    similarity: str
    fingerprint: str

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of passages."""
        raise NotImplementedError

    def questions(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of questions; warns where one is far too long to be read whole."""
        raise NotImplementedError


class GivenEncoder(Encoders):
    """One encoder for both, given by the caller."""

    def __init__(self, encoder: Encoder) -> None:
        self.dim = encoder.dim
        self.similarity = encoder.similarity
        self.fingerprint = encoder.fingerprint
        self._encoder = encoder

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of passages."""
        return self._encoder.encode(texts)

    def questions(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of questions; warns where one is far too long to be read whole."""
        return encode_question(self._encoder, texts)


class BundleEncoders(Encoders):
    """The two encoders of a bundle; each is loaded when it is first used.

    Raises:
        BundleError: the bundle has no passage encoder.
    """

    def __init__(self, bundle: Bundle, *, device: str, threads: int | None) -> None:
        part = bundle.manifest.passage_encoder
        if part is None:
            raise BundleError(f"the bundle {bundle.folder} has no passage encoder")
        self.dim = part.dim
        self.similarity = bundle.manifest.retrieval.similarity
        self.fingerprint = bundle.fingerprint(part)
        self._bundle = bundle
        self._device = device
        self._threads = threads
        self._lock = threading.Lock()
        self._loaded: dict[str, TextEncoder] = {}

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of passages."""
        return self._load(self._bundle.manifest.passage_encoder).encode(texts)

    def questions(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of questions; warns where one is far too long to be read whole."""
        return encode_question(self._load(self._bundle.manifest.question_encoder), texts)

    def _load(self, part: EncoderPart | None) -> TextEncoder:
        if part is None:
            raise BundleError(f"the bundle {self._bundle.folder} has no question encoder")
        # The two are often one and the same: it is loaded once.
        fingerprint = self._bundle.fingerprint(part)
        with self._lock:
            if fingerprint not in self._loaded:
                self._loaded[fingerprint] = TextEncoder.from_bundle(
                    self._bundle, part, device=self._device, threads=self._threads
                )
            return self._loaded[fingerprint]


def choose_encoders(
    bundle: str | Path | Bundle | None, encoder: Encoder | None, *, device: str, threads: int | None
) -> Encoders | None:
    """The encoders that were named, or None.

    Raises:
        ValueError: both were named.
        BundleError: the bundle is not whole.
    """
    if bundle is not None and encoder is not None:
        raise ValueError("give either bundle or encoder, not both")
    if encoder is not None:
        return GivenEncoder(encoder)
    if bundle is None:
        return None
    loaded = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    return BundleEncoders(loaded, device=device, threads=threads)
