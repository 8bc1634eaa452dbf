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
from rag_infer.errors import BundleError, ImageError, KnowledgeBaseError
from rag_infer.images.encode import ImageEncoder
from rag_infer.images.image import Image
from rag_infer.knowledge.arguments import check_vectors
from rag_infer.knowledge.passage import Passage, passage_text
from rag_infer.knowledge.query_vectors import QueryVectors
from rag_infer.knowledge.similarity import as_stored
from rag_infer.parts import EncoderPart
from rag_infer.query import Query


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
    """The encoders of passages and of questions.

    Attributes:
        dim: width of a passage's vector: that of its text, then that of its image.
        image_dim: width of the latter; 0 where images are not read.
        shared_space: whether texts and images have vectors in one space.
        similarity: how vectors are compared; "dot" where there are images, whose parts have length 1 for "cosine".
        fingerprint: of the encoders.
        score_scale: factor on scores that makes priors of them (see `rag_infer.parts.RetrievalPart`).
    """

    dim: int
    image_dim: int = 0
    shared_space: bool = False
    similarity: str
    fingerprint: str
    score_scale: float = 1.0

    @property
    def text_dim(self) -> int:
        """Width of a text's vector; 0 where texts are not read."""
        return self.dim - self.image_dim

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of passages' texts, float32 ``[texts, text_dim]``."""
        raise NotImplementedError

    def questions(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of questions, float32 ``[texts, text_dim]``; warns where one is far too long to be read whole."""
        raise NotImplementedError

    def images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Vectors of images, float32 ``[images, image_dim]``."""
        raise NotImplementedError

    def of_passages(self, passages: Sequence[Passage]) -> NDArray[np.float32]:
        """Vectors as they are stored, float32 ``[passages, dim]``; zeros where a passage has no text or no image.

        Raises:
            KnowledgeBaseError: images, or texts, are not read.
            ImageError: an image cannot be read.
            ValueError: a vector of zeros under cosine, or one that is too long.
        """
        seen = [i for i, passage in enumerate(passages) if passage.image is not None]
        if not self.image_dim:
            if seen:
                raise no_image_encoder(f"the image of passage {passages[seen[0]].id!r}")
            return self._stored(self.passages([passage_text(p) for p in passages]), len(passages), self.dim)
        vectors = np.zeros((len(passages), self.dim), dtype=np.float32)
        read = [i for i, passage in enumerate(passages) if passage_text(passage)]
        # A passage with an image is found by it where texts are not read; its text is for the generator.
        if self.text_dim and read:
            made = self.passages([passage_text(passages[i]) for i in read])
            vectors[read, : self.text_dim] = self._stored(made, len(read), self.text_dim)
        for i in read if not self.text_dim else ():
            if passages[i].image is None:
                raise KnowledgeBaseError(
                    f"passage {passages[i].id!r} has no image, and texts are not encoded here"
                )
        if seen:
            made = self._images([passages[i] for i in seen])
            vectors[seen, self.text_dim :] = self._stored(made, len(seen), self.image_dim)
        return vectors

    def _images(self, passages: Sequence[Passage]) -> NDArray[np.float32]:
        """Vectors of passages' images.

        Raises:
            ImageError: one cannot be read; the message has the passage too.
        """
        try:
            return self.images([passage.image for passage in passages])
        except ImageError as error:
            bad = next((p for p in passages if p.image.name in str(error)), None)
            if bad is None:
                raise
            raise ImageError(f"passage {bad.id!r}: {error}") from error

    def of_queries(self, queries: Sequence[Query]) -> QueryVectors:
        """Vectors of questions; a question's text and image each by itself.

        Raises:
            KnowledgeBaseError: a question is an image and images are not read, or a text and texts are not read.
            ImageError: an image cannot be read.
        """
        vectors = QueryVectors.empty(len(queries), self.text_dim, self.image_dim)
        seen = [i for i, query in enumerate(queries) if query.image is not None]
        read = [i for i, query in enumerate(queries) if query.text]
        if seen and not self.image_dim:
            raise no_image_encoder(f"the question's image, {queries[seen[0]].image.name},")
        if not self.text_dim:
            if any(query.image is None for query in queries):
                raise KnowledgeBaseError(
                    "a question without an image, and no encoder for texts: ask with an image, alone or beside the text"
                )
            read = []  # beside an image the text is for the generator, as a passage's is
        if read:
            made = self.questions([queries[i].text for i in read])
            vectors.put_texts(read, self._stored(made, len(read), self.text_dim))
        if seen:
            made = self.images([queries[i].image for i in seen])
            vectors.put_images(seen, self._stored(made, len(seen), self.image_dim))
        return vectors

    def _stored(self, vectors: NDArray[np.float32], rows: int, dim: int) -> NDArray[np.float32]:
        check_vectors("the encoder's vectors", vectors, rows=rows, dim=dim)
        return as_stored(vectors, self.part_similarity)

    @property
    def part_similarity(self) -> str:
        """How a text's or an image's vector alone is compared."""
        return self.similarity


def no_image_encoder(what: str) -> KnowledgeBaseError:
    """The error about an image that nobody can read."""
    return KnowledgeBaseError(
        f"{what} cannot be encoded: there is no image encoder; export a bundle with --image-encoder, and build the "
        "knowledge base with it"
    )


class GivenEncoder(Encoders):
    """One encoder for both, given by the caller; it reads images if it has ``image_dim`` and ``encode_images``."""

    def __init__(self, encoder: Encoder) -> None:
        self.image_dim = int(getattr(encoder, "image_dim", 0))
        self.dim = encoder.dim + self.image_dim
        self.shared_space = bool(getattr(encoder, "shared_space", False))
        self.similarity = "dot" if self.image_dim else encoder.similarity
        self.fingerprint = encoder.fingerprint
        self._encoder = encoder

    @property
    def part_similarity(self) -> str:
        """How a text's or an image's vector alone is compared."""
        return self._encoder.similarity

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of passages' texts."""
        return self._encoder.encode(texts)

    def questions(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of questions; warns where one is far too long to be read whole."""
        return encode_question(self._encoder, texts)

    def images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Vectors of images."""
        vectors: NDArray[np.float32] = self._encoder.encode_images(images)  # type: ignore[attr-defined]
        return vectors


class BundleEncoders(Encoders):
    """The encoders of a bundle; each is loaded when it is first used.

    Raises:
        BundleError: the bundle has neither a passage encoder nor an image encoder.
    """

    def __init__(self, bundle: Bundle, *, device: str, threads: int | None) -> None:
        manifest = bundle.manifest
        part, seeing = manifest.passage_encoder, manifest.image_encoder
        if part is None and seeing is None:
            raise BundleError(f"the bundle {bundle.folder} has no passage encoder")
        self.image_dim = seeing.dim if seeing else 0
        self.dim = (part.dim if part else 0) + self.image_dim
        self.shared_space = manifest.retrieval.shared_space
        self.similarity = "dot" if seeing else manifest.retrieval.similarity
        self.score_scale = manifest.retrieval.score_scale
        self.fingerprint = "+".join(bundle.fingerprint(p) for p in (part, seeing) if p is not None)
        self._bundle = bundle
        self._device = device
        self._threads = threads
        self._lock = threading.Lock()
        self._loaded: dict[str, TextEncoder] = {}
        self._image_encoder: ImageEncoder | None = None

    @property
    def part_similarity(self) -> str:
        """How a text's or an image's vector alone is compared."""
        return self._bundle.manifest.retrieval.similarity

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of passages' texts."""
        return self._load(self._bundle.manifest.passage_encoder).encode(texts)

    def questions(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of questions; warns where one is far too long to be read whole."""
        return encode_question(self._load(self._bundle.manifest.question_encoder), texts)

    def images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Vectors of images."""
        with self._lock:
            if self._image_encoder is None:
                self._image_encoder = ImageEncoder.from_bundle(
                    self._bundle, device=self._device, threads=self._threads
                )
            encoder = self._image_encoder
        return encoder.encode(images)

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
