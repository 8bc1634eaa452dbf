"""Image encoders: CLIP, SigLIP, ViT and ResNet checkpoints to one graph, from pixels to vectors.

Each is loaded by its exact class: the vision tower of CLIP alone would silently go without its projection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from rag_infer.errors import ExportError
from rag_infer.export.checkpoint import (
    POSITION_IDS,
    UNUSED_POOLER,
    Checkpoint,
    Harmless,
    find_checkpoint,
    load_complete,
    read_config,
)
from rag_infer.export.graph_file import split_weights, write_graph
from rag_infer.export.image_processor import read_processing
from rag_infer.export.tracing import trace
from rag_infer.parts import ImageEncoderPart, ImageProcessing

POOLINGS = ("cls", "mean")

OTHER_TOWER = Harmless(
    r"text_model\..*|text_projection\..*|logit_scale|logit_bias", "the text tower, which is another part"
)
CLASSIFIER = Harmless(r"classifier\..*", "the head of a classifier, which an encoder does not have")

AXES = {"pixel_values": {0: "images"}, "embedding": {0: "images"}}


@dataclass(frozen=True)
class Kind:
    """How checkpoints of one model_type are read.

    Attributes:
        architecture: the exact class.
        harmless: keys that may be left over.
        pooling: as in `ImageEncoderPart`; None where the caller chooses of `POOLINGS`.
        vectors: the vectors, float32 ``[images, dim]``, of the model's output.
        settings: for ``from_pretrained``.
    """

    architecture: str
    harmless: tuple[Harmless, ...]
    pooling: str | None
    vectors: Callable[[Any], Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)


_CLIP = Kind(
    "CLIPVisionModelWithProjection", (OTHER_TOWER, POSITION_IDS), "projection", lambda o: o.image_embeds
)
_SIGLIP = Kind("SiglipVisionModel", (OTHER_TOWER, POSITION_IDS), "attention", lambda o: o.pooler_output)
KINDS = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "vit": Kind(
        "ViTModel",
        (UNUSED_POOLER, CLASSIFIER),
        None,
        lambda o: o.last_hidden_state,
        {"add_pooling_layer": False},
    ),
    "resnet": Kind("ResNetModel", (CLASSIFIER,), "average", lambda o: o.pooler_output.flatten(1)),
}


class ImageTower(nn.Module):
    """From pixels to vectors, as the original computes them.

    Args:
        model: the model.
        kind: how its output is read.
        pooling: as in `ImageEncoderPart`.
        normalise: whether vectors are brought to length 1.
    """

    def __init__(self, model: nn.Module, kind: Kind, *, pooling: str, normalise: bool) -> None:
        super().__init__()
        self.model = model
        self._kind = kind
        self._pooling = pooling
        self._normalise = normalise

    def forward(self, pixel_values: Tensor) -> Tensor:
        """``[images, 3, height, width]`` to ``[images, dim]``."""
        vectors = self._kind.vectors(self.model(pixel_values=pixel_values))
        if self._pooling == "cls":
            vectors = vectors[:, 0]
        elif self._pooling == "mean":  # over the patches
            vectors = vectors[:, 1:].mean(1)
        return nn.functional.normalize(vectors, dim=-1) if self._normalise else vectors


@dataclass(frozen=True, kw_only=True)
class LoadedImageEncoder:
    """An image encoder in PyTorch.

    Attributes:
        tower: from ``pixel_values`` to vectors.
        dim, pooling, normalise, processing: as in `ImageEncoderPart`.
        ignored_keys: keys left over in the checkpoint, and why each is harmless.
        origin: name and sha256 of the checkpoint.
    """

    tower: ImageTower
    dim: int
    pooling: str
    normalise: bool
    processing: ImageProcessing
    ignored_keys: dict[str, str]
    origin: dict[str, Any]

    def part(self, path: str) -> ImageEncoderPart:
        """The encoder's entry in the manifest."""
        return ImageEncoderPart(
            path=path,
            dim=self.dim,
            pooling=self.pooling,
            normalise=self.normalise,
            processing=self.processing,
        )


def load_image_encoder(
    source: str | Path, *, pooling: str | None = None, normalise: bool = True
) -> LoadedImageEncoder:
    """Load a checkpoint by its exact class, completely.

    Args:
        source: folder or hub name.
        pooling: "cls" or "mean", for ViT; default "cls".
        normalise: whether vectors are brought to length 1.

    Raises:
        ExportError: no such checkpoint, another model_type, missing or left-over weights, or an image processor that
            is not known.
    """
    checkpoint = find_checkpoint(source)
    config = read_config(checkpoint)
    kind = KINDS.get(config.model_type)
    if kind is None:
        raise ExportError(
            f"{checkpoint.name} has model_type {config.model_type!r}: supported image encoders are CLIP, SigLIP, ViT "
            "and ResNet"
        )
    if pooling is not None and (kind.pooling is not None or pooling not in POOLINGS):
        raise ExportError(f"{checkpoint.name}: pooling {pooling!r} is not for a {kind.architecture}")
    model, ignored = load_complete(
        getattr(transformers, kind.architecture), checkpoint.source, harmless=kind.harmless, **kind.settings
    )
    chosen = kind.pooling or pooling or POOLINGS[0]
    tower = ImageTower(model, kind, pooling=chosen, normalise=normalise).eval()
    processing = read_processing(checkpoint.source)
    return LoadedImageEncoder(
        tower=tower,
        dim=_width(tower, processing, checkpoint),
        pooling=chosen,
        normalise=normalise,
        processing=processing,
        ignored_keys=ignored,
        origin=checkpoint.describe(),
    )


def write_image_graph(encoder: LoadedImageEncoder, path: Path) -> None:
    """Write ``path`` and ``path.data``: float32 ``pixel_values`` to float32 ``embedding``."""
    size = (encoder.processing.height, encoder.processing.width)
    example = [torch.zeros(2, 3, *size)]
    graph = trace(encoder.tower, example, ["pixel_values"], ["embedding"], AXES, values=True)
    write_graph(graph, split_weights(graph), path)


def _width(tower: ImageTower, processing: ImageProcessing, checkpoint: Checkpoint) -> int:
    with torch.no_grad():
        try:
            return int(tower(torch.zeros(1, 3, processing.height, processing.width)).shape[1])
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                f"{checkpoint.name} does not read the images of its processor, {processing.height} x "
                f"{processing.width}: {error}"
            ) from error
