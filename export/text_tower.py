"""The text towers of CLIP and SigLIP: from token ids to vectors in the space of the images.

Each is loaded by its exact class. What a tokenizer of theirs would pad with is put in inside the graph, so that the
runtime pads as for any encoder: CLIP's vector is that of the first end of text, which what comes after does not
change; SigLIP was trained on texts padded to one length, with the padding in view.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import transformers
from onnx import numpy_helper
from torch import Tensor, nn

from rag_infer.errors import ExportError
from rag_infer.export.checkpoint import POSITION_IDS, Checkpoint, Harmless, load_complete
from rag_infer.export.graph_file import split_weights, write_graph
from rag_infer.export.tracing import trace

OTHER_TOWER = Harmless(
    r"vision_model\..*|visual_projection\..*|logit_scale|logit_bias", "the image tower, which is another part"
)
AXES = {
    "input_ids": {0: "texts", 1: "tokens"},
    "attention_mask": {0: "texts", 1: "tokens"},
    "embedding": {0: "texts"},
}


@dataclass(frozen=True)
class TowerKind:
    """How the text towers of one model_type are read.

    Attributes:
        architecture: the exact class.
        pooling: as in `rag_infer.parts.EncoderPart`.
        vectors: the vectors, float32 ``[texts, dim]``, of the model's output.
        whole_length: whether every text is padded to the longest there can be.
    """

    architecture: str
    pooling: str
    vectors: Callable[[Any], Tensor]
    whole_length: bool


_CLIP = TowerKind("CLIPTextModelWithProjection", "projection", lambda o: o.text_embeds, whole_length=False)
_SIGLIP = TowerKind("SiglipTextModel", "last", lambda o: o.pooler_output, whole_length=True)
KINDS = {"clip": _CLIP, "clip_text_model": _CLIP, "siglip": _SIGLIP, "siglip_text_model": _SIGLIP}


class TextTower(nn.Module):
    """From ids and mask to vectors.

    Args:
        model: the model.
        kind: how its output is read.
        pad_id: what the tower's own tokenizer pads with.
        normalise: whether vectors are brought to length 1.
    """

    def __init__(self, model: nn.Module, kind: TowerKind, *, pad_id: int, normalise: bool) -> None:
        super().__init__()
        self.model = model
        self.max_length = int(model.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
        self.pooling = kind.pooling
        self._kind = kind
        self._pad_id = pad_id
        self._normalise = normalise

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        config: Any = self.model.config
        return int(config.hidden_size if self._kind.whole_length else config.projection_dim)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[texts, tokens]`` each, int64, to ``[texts, dim]``."""
        ids = torch.where(attention_mask > 0, input_ids, self._pad_id)
        if self._kind.whole_length:
            rest = torch.full_like(ids[:, :1], self._pad_id).expand(-1, self.max_length)
            ids = torch.cat([ids, rest], dim=1)
        ids = ids[:, : self.max_length]  # the runtime pads to round widths, beyond the last position there is
        vectors = self._kind.vectors(self.model(input_ids=ids))
        return nn.functional.normalize(vectors, dim=-1) if self._normalise else vectors


def load_tower(
    checkpoint: Checkpoint, model_type: str, tokenizer: Any, *, normalise: bool
) -> tuple[TextTower, dict[str, str]]:
    """(The text tower of a checkpoint, the left-over keys with the reason each is harmless).

    Args:
        checkpoint: of the tower alone or of both.
        model_type: one of `KINDS`.
        tokenizer: transformers' own.
        normalise: whether vectors are brought to length 1.

    Raises:
        ExportError: missing or left-over weights, or a tokenizer that does not say what it pads with.
    """
    kind = KINDS[model_type]
    model, ignored = load_complete(
        getattr(transformers, kind.architecture), checkpoint.source, harmless=(OTHER_TOWER, POSITION_IDS)
    )
    if tokenizer.pad_token_id is None:
        raise ExportError(f"the tokenizer of {checkpoint.name} has no padding token")
    tower = TextTower(model, kind, pad_id=int(tokenizer.pad_token_id), normalise=normalise).eval()
    return tower, ignored


def write_tower_graph(tower: TextTower, path: Path) -> None:
    """Write ``path`` and ``path.data``: int64 ``input_ids`` and ``attention_mask`` to float32 ``embedding``."""
    ids = torch.full((2, 5), 3, dtype=torch.int64)
    graph = trace(
        tower,
        [ids, torch.ones_like(ids)],
        ["input_ids", "attention_mask"],
        ["embedding"],
        AXES,
        values=True,
    )
    _mask_by_infinity(graph)
    write_graph(graph, split_weights(graph), path)


def _mask_by_infinity(graph: onnx.ModelProto) -> None:
    """Let causal masks be of minus infinity where transformers has the least float32, which float16 does not hold.

    Every token sees itself, so that no softmax is over nothing, and the probabilities are the same: zeros.
    """
    least = np.finfo(np.float32).min
    constants = [a.t for n in graph.graph.node for a in n.attribute if a.type == onnx.AttributeProto.TENSOR]
    for tensor in (*graph.graph.initializer, *constants):
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            if (values == least).any():
                masked = np.where(values == least, np.float32(-np.inf), values)
                tensor.CopyFrom(numpy_helper.from_array(masked, tensor.name))
