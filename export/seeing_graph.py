"""The graphs of generators that see: images to features, and features (with text) to what the decoder attends to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rag_infer.export.graph_file import WeightFile, split_weights, write_graph
from rag_infer.export.seq2seq_graph import CrossInputs, EncoderGraph
from rag_infer.export.seq2seq_parts import Seq2SeqParts
from rag_infer.export.tracing import trace
from rag_infer.parts import GeneratorVision

VISION_AXES: Mapping[str, Mapping[int, str]] = {"pixel_values": {0: "images"}, "features": {0: "images"}}
# As `rag_infer.export.seq2seq.ENCODER_AXES`.
SEEING_AXES: Mapping[str, Mapping[int, str]] = {
    "image_features": {0: "rows", 1: "places"},
    "input_ids": {0: "rows", 1: "tokens"},
    "attention_bias": {0: "rows", 1: "places_and_tokens"},
    "cross_keys_{layer}": {0: "rows", 3: "places_and_tokens"},
    "cross_values_{layer}": {0: "rows", 2: "places_and_tokens"},
}


@dataclass(frozen=True, kw_only=True)
class LoadedVision:
    """What a generator sees with, in PyTorch.

    Attributes:
        tower: ``pixel_values`` ``[images, 3, height, width]`` to projected features ``[images, places, width]``.
        width: of the features.
        part: its entry in the manifest.
    """

    tower: nn.Module
    width: int
    part: GeneratorVision


class SeeingEncoderGraph(nn.Module):
    """Contexts of images and text to the keys and values that every decoder layer attends to."""

    def __init__(self, parts: Seq2SeqParts) -> None:
        super().__init__()
        self.text = EncoderGraph(parts)

    def forward(
        self, image_features: Tensor, input_ids: Tensor, attention_bias: Tensor
    ) -> tuple[Tensor, ...]:
        """Run the graph.

        Args:
            image_features: float32 ``[rows, places, width]``.
            input_ids: int64 ``[rows, tokens]``.
            attention_bias: float32 ``[rows, places + tokens]``, 0 where something counts, minus infinity elsewhere.

        Returns:
            As `EncoderGraph.forward`, of places and then tokens.
        """
        read = torch.cat([image_features, self.text.embed.tokens(input_ids)], dim=1)
        positions = torch.arange(read.shape[1], device=read.device)[None]
        return self.text.read(self.text.embed.placed(read, positions), positions, attention_bias)


class ImageContextGraph(nn.Module):
    """Contexts of images alone to the keys and values that every decoder layer attends to."""

    def __init__(self, parts: Seq2SeqParts) -> None:
        super().__init__()
        self.cross = nn.ModuleList([CrossInputs(p, parts.decoder.num_heads) for p in parts.decoder.layers])

    def forward(self, image_features: Tensor) -> tuple[Tensor, ...]:
        """From float32 ``[rows, places, width]``; returns as `EncoderGraph.forward`."""
        return tuple(x for cross in self.cross for x in cross(image_features))


def write_vision_graph(vision: LoadedVision, path: Path, file: WeightFile) -> None:
    """Write the graph that turns images into features."""
    processing = vision.part.processing
    example = [torch.zeros(2, 3, processing.height, processing.width)]
    graph = trace(vision.tower, example, ["pixel_values"], ["features"], VISION_AXES, values=True)
    write_graph(graph, split_weights(graph), path, file=file)


def write_seeing_encoder(
    parts: Seq2SeqParts, vision: LoadedVision, cross: list[str], path: Path, file: WeightFile
) -> None:
    """Write the graph that reads contexts.

    Args:
        parts: the model's.
        vision: what it sees with.
        cross: names of the outputs.
        path, file: where the graph and its weights go.
    """
    rows, places, tokens = 4, 5, 7
    features = torch.zeros(rows, places, vision.width)
    if parts.encoder is None:
        encoder: nn.Module = ImageContextGraph(parts)
        inputs, names = [features], ["image_features"]
    else:
        encoder = SeeingEncoderGraph(parts)
        inputs = [features, torch.zeros(rows, tokens, dtype=torch.int64), torch.zeros(rows, places + tokens)]
        names = ["image_features", "input_ids", "attention_bias"]
    graph = trace(encoder.eval(), inputs, names, cross, SEEING_AXES)
    weights = {name: value.numpy() for name, value in encoder.state_dict().items()}
    write_graph(graph, weights, path, file=file)
