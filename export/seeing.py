"""Generators that see: VisionEncoderDecoder checkpoints, and BART that reads images before its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from rag_infer.errors import ExportError
from rag_infer.export.checkpoint import UNUSED_POOLER, Checkpoint, Harmless, load_complete, read_config
from rag_infer.export.generation_settings import generation_settings
from rag_infer.export.image_processor import read_processing
from rag_infer.export.seeing_graph import LoadedVision
from rag_infer.export.seq2seq import LoadedSeq2Seq, check_vocabulary
from rag_infer.export.tokenizer_file import load_tokenizer, unpadded
from rag_infer.export.vision_text import MODEL_TYPE, VisionTextModel
from rag_infer.parts import ComposingRule, GeneratorVision

VISION_ENCODER_DECODER = "vision-encoder-decoder"
SEEING = (VISION_ENCODER_DECODER, MODEL_TYPE)
# Of a VisionEncoderDecoder, which decoders are read; others differ in their norms and their heads.
DECODERS = ("gpt2",)

CAUSAL_MASKS = Harmless(
    r"decoder\.transformer\.h\.\d+\.(attn|crossattention)\.(masked_)?bias", "buffers of a causal mask"
)
# Tokens that must fit beside the images.
TEXT_ROOM = 16


class FeatureTower(nn.Module):
    """The encoder of a VisionEncoderDecoderModel, and the projection to its decoder's width where it has one."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.projection = getattr(model, "enc_to_dec_proj", nn.Identity())

    def forward(self, pixel_values: Tensor) -> Tensor:
        """``[images, 3, height, width]`` to ``[images, places, width]``."""
        features: Tensor = self.projection(self.encoder(pixel_values=pixel_values).last_hidden_state)
        return features


class VisionTextTower(nn.Module):
    """The vision model of a `VisionTextModel` and its projection."""

    def __init__(self, model: VisionTextModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """``[images, 3, height, width]`` to ``[images, places, width]``."""
        return self.model.image_features(pixel_values)


def load_seeing(checkpoint: Checkpoint) -> LoadedSeq2Seq:
    """Load a checkpoint of one of the `SEEING` model types, completely.

    Raises:
        ExportError: a decoder that is not supported, missing or left-over weights, no tokenizer, no image processor or
            one that does not fit, images that leave no room for text.
    """
    if read_config(checkpoint).model_type == VISION_ENCODER_DECODER:
        return _load_vision_encoder_decoder(checkpoint)
    return _load_vision_text(checkpoint)


def _load_vision_encoder_decoder(checkpoint: Checkpoint) -> LoadedSeq2Seq:
    config = read_config(checkpoint)
    if config.decoder.model_type not in DECODERS:
        raise ExportError(
            f"{checkpoint.name} has a decoder of type {config.decoder.model_type!r}: supported are "
            f"{', '.join(DECODERS)}"
        )
    model, _ = load_complete(
        transformers.VisionEncoderDecoderModel,
        checkpoint.source,
        harmless=(CAUSAL_MASKS,),
        unused=(UNUSED_POOLER,),
    )
    sources = tuple(getattr(config, "images", ("question",)))
    if sources not in (("question",), ("passage",)):
        raise ExportError(
            f"{checkpoint.name} reads one image, of the question or of the passage: its config names {sources}"
        )
    vision = _vision(checkpoint, FeatureTower(model), sources, reads_text=False)
    return _loaded(checkpoint, model, model.decoder, vision, ComposingRule(), model.generation_config)


def _load_vision_text(checkpoint: Checkpoint) -> LoadedSeq2Seq:
    if checkpoint.folder is None:
        raise ExportError(f"{checkpoint.name} is no local folder, from which alone {MODEL_TYPE} is loaded")
    try:
        model = VisionTextModel.from_pretrained(checkpoint.folder, attention="eager")
    except (OSError, ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())[:300]
        raise ExportError(f"{checkpoint.source} cannot be loaded as VisionTextModel: {line}") from error
    vision = _vision(checkpoint, VisionTextTower(model), model.config.images, reads_text=True)
    config, rule = model.text.config, ComposingRule(prefix=getattr(model.text.config, "prefix", None) or "")
    room = config.max_position_embeddings - vision.part.context_places
    if room < TEXT_ROOM:
        raise ExportError(
            f"{checkpoint.name} has {config.max_position_embeddings} positions, of which its images take "
            f"{vision.part.context_places}: at least {TEXT_ROOM} are for text"
        )
    rule = replace(rule, max_combined_length=min(rule.max_combined_length, room))
    return _loaded(checkpoint, model, model.text, vision, rule, model.text.generation_config)


def _loaded(
    checkpoint: Checkpoint, model: Any, text: Any, vision: LoadedVision, rule: ComposingRule, held: Any
) -> LoadedSeq2Seq:
    """With the tokenizer of its text model, and its generation settings, which ``held`` has."""
    tokenizer = unpadded(load_tokenizer(checkpoint).backend_tokenizer)
    check_vocabulary(checkpoint.name, tokenizer, text)
    return LoadedSeq2Seq(
        model=model,
        tokenizer=tokenizer,
        composing=rule,
        settings=generation_settings(held),
        held=held,
        origin=checkpoint.describe(),
        vision=vision,
    )


def _vision(
    checkpoint: Checkpoint, tower: nn.Module, sources: Sequence[str], *, reads_text: bool
) -> LoadedVision:
    """Tried on one image, which gives its places."""
    processing = read_processing(checkpoint.source)
    with torch.no_grad():
        try:
            features = tower.eval()(torch.zeros(1, 3, processing.height, processing.width))
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                f"{checkpoint.name} does not read the images of its processor, {processing.height} x "
                f"{processing.width}: {error}"
            ) from error
    if features.dim() != 3:
        raise ExportError(
            f"{checkpoint.name}: its features have the shape {list(features.shape)}, not three axes"
        )
    part = GeneratorVision(
        processing=processing, places=features.shape[1], sources=tuple(sources), reads_text=reads_text
    )
    return LoadedVision(tower=tower, width=features.shape[2], part=part)
