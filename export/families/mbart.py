"""mBART: BART with the norms before each part and one more at the end of each stack."""

from __future__ import annotations

from typing import Any

from rag_infer.export.families.bart import Variation, read_variation
from rag_infer.export.seq2seq_parts import Seq2SeqParts


def read_mbart(model: Any) -> Seq2SeqParts:
    """An `MBartForConditionalGeneration`."""
    return read_variation(model, Variation(pre_norm=True, position_offset=2))
