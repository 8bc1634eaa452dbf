"""What says whether a passage is there as it is: digests of its text, its metadata, and of a vector that was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer.knowledge.checksums import DIGEST_BYTES, vector_digest
from rag_infer.knowledge.passage import Passage, metadata_digest, text_digest


def contents_digest(passage: Passage, vector: NDArray[np.float32] | None) -> bytes:
    """32 bytes, or 48 with a vector of the caller's, that differ when any of the contents differ."""
    given = b"" if vector is None else vector_digest(vector)
    return text_digest(passage) + metadata_digest(passage.metadata) + given


def with_metadata(digest: bytes, metadata: Mapping[str, Any]) -> bytes:
    """The digest of the same passage with other metadata."""
    return digest[:DIGEST_BYTES] + metadata_digest(metadata) + digest[2 * DIGEST_BYTES :]
