"""Marian: BART with sinusoidal positions, which are a table here too, and no norm of the embeddings."""

from __future__ import annotations

from typing import Any

from rag_infer.export.families.bart import Variation, read_variation
from rag_infer.export.seq2seq_parts import Seq2SeqParts


def read_marian(model: Any) -> Seq2SeqParts:
    """A `MarianMTModel`."""
    return read_variation(model, Variation(pre_norm=False, position_offset=0))
