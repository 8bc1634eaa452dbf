"""Small random checkpoints of generators that see, as folders: of both kinds, with every vision model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from rag_infer.export.vision_text import VisionTextModel
from tests.seq2seq_checkpoints import VOCAB, make_model, save_tokenizer

SIZE = 16
TOWER = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
PLACES = {"vit": 5, "clip": 5, "resnet": 4}


def make_vision(name: str, *, pooler: bool = True) -> Any:
    """A vision model of `PLACES`, with large random weights."""
    if name == "vit":
        config = transformers.ViTConfig(**TOWER, image_size=SIZE, patch_size=8)
        return louder(transformers.ViTModel(config, add_pooling_layer=pooler))
    if name == "clip":
        return louder(
            transformers.CLIPVisionModel(
                transformers.CLIPVisionConfig(**TOWER, image_size=SIZE, patch_size=8)
            )
        )
    settings = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return louder(transformers.ResNetModel(transformers.ResNetConfig(**settings)))


def louder(model: Any) -> Any:
    """The model with weights that tell one image clearly from another."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def write_vision_text(
    folder: Path,
    *,
    vision: str = "vit",
    images: Sequence[str] = ("question", "passage"),
    seed: int = 0,
    **changes: Any,
) -> VisionTextModel:
    """A checkpoint of BART that sees; ``changes`` are BART's."""
    text = make_model("bart", seed=seed, **changes)
    model = VisionTextModel(text, make_vision(vision), images=images).eval()
    with torch.no_grad():
        model.projection.weight.mul_(2)
    model.save_pretrained(folder)
    save_tokenizer(folder, text)
    processor(vision).save_pretrained(folder)
    return model


def write_captioner(
    folder: Path,
    *,
    width: int = 24,
    images: Sequence[str] | None = None,
    pooler: bool = True,
    seed: int = 0,
    **changes: Any,
) -> Any:
    """A VisionEncoderDecoder of ViT and GPT-2, whose features are projected where ``width`` is not 24.

    ``changes`` are GPT-2's.
    """
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCAB,
        "n_embd": width,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 48,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "add_cross_attention": True,
        "is_decoder": True,
        "initializer_range": 0.4,
    }
    decoder = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**settings, **changes}))
    model = transformers.VisionEncoderDecoderModel(
        encoder=make_vision("vit", pooler=pooler), decoder=decoder
    ).eval()
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 0, 1, 2
    if images is not None:
        model.config.images = list(images)
    model.save_pretrained(folder)
    save_tokenizer(folder, decoder)
    processor("vit").save_pretrained(folder)
    return model


def processor(vision: str) -> Any:
    """Of a vision model."""
    size = {"height": SIZE, "width": SIZE}
    if vision == "clip":
        return transformers.CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=size)
    if vision == "resnet":
        return transformers.ConvNextImageProcessor(size={"shortest_edge": SIZE})
    return transformers.ViTImageProcessor(size=size)
