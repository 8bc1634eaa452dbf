"""Image towers of CLIP, SigLIP, ViT and ResNet: the graph gives what transformers gives, on images of all sorts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from rag_infer.errors import ExportError
from rag_infer.export.image_encoder import load_image_encoder, write_image_graph
from rag_infer.images.encode import ImageEncoder
from rag_infer.session import Session

SIZE = 32
TOWER = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}


def write_clip(folder: Path) -> tuple[Any, Callable[[Any], Any]]:
    torch.manual_seed(0)
    vision = {**TOWER, "image_size": SIZE, "patch_size": 8, "projection_dim": 16}
    text = {**TOWER, "vocab_size": 50, "max_position_embeddings": 12, "projection_dim": 16}
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)
    model = transformers.CLIPModel(config).eval()
    size = {"height": SIZE, "width": SIZE}
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=size)
    save(folder, model, processor)
    return processor, lambda pixels: model.get_image_features(pixel_values=pixels)


def write_siglip(folder: Path) -> tuple[Any, Callable[[Any], Any]]:
    torch.manual_seed(0)
    vision = {**TOWER, "image_size": SIZE, "patch_size": 8}
    text = {**TOWER, "vocab_size": 50, "max_position_embeddings": 12}
    model = transformers.SiglipModel(transformers.SiglipConfig(vision_config=vision, text_config=text)).eval()
    processor = transformers.SiglipImageProcessor(size={"height": SIZE, "width": SIZE})
    save(folder, model, processor)
    return processor, lambda pixels: model.get_image_features(pixel_values=pixels)


def write_vit(folder: Path) -> tuple[Any, Callable[[Any], Any]]:
    torch.manual_seed(0)
    config = transformers.ViTConfig(**TOWER, image_size=SIZE, patch_size=8)
    model = transformers.ViTForImageClassification(config).eval()
    processor = transformers.ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    save(folder, model, processor)
    return processor, lambda pixels: model.vit(pixels).last_hidden_state[:, 0]


def write_resnet(folder: Path) -> tuple[Any, Callable[[Any], Any]]:
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    model = transformers.ResNetForImageClassification(config).eval()
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": SIZE})
    save(folder, model, processor)
    return processor, lambda pixels: model.resnet(pixels).pooler_output.flatten(1)


def save(folder: Path, model: Any, processor: Any) -> None:
    torch.manual_seed(0)
    for parameter in model.parameters():  # no zeros and ones, so that nothing is alike by chance
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


WRITERS = {"clip": write_clip, "siglip": write_siglip, "vit": write_vit, "resnet": write_resnet}


def images() -> list[Any]:
    draw = np.random.default_rng(0)
    sizes = ((40, 60), (33, 32), (100, 35), (32, 32), (64, 64))
    return [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("name", WRITERS)
def test_the_graph_gives_what_transformers_gives(tmp_path: Path, name: str) -> None:
    processor, features = WRITERS[name](tmp_path / "checkpoint")
    loaded = load_image_encoder(tmp_path / "checkpoint")
    graph = tmp_path / "model.onnx"
    write_image_graph(loaded, graph)
    encoder = ImageEncoder(Session(graph), loaded.part("image"), similarity="cosine", fingerprint="")
    given = images()
    found = encoder.encode(given)
    pixels = processor([Image.fromarray(image) for image in given], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = torch.nn.functional.normalize(features(pixels), dim=-1).numpy()
    assert found.shape == (len(given), loaded.dim) == expected.shape
    assert np.abs(found - expected).max() < 1e-5
    # One at a time, and with pixels that are the average of all: not by chance.
    assert np.allclose(np.concatenate([encoder.encode([image]) for image in given]), found, atol=1e-6)
    assert np.abs(found - found[:1]).max() > 1e-3


def test_vit_may_be_averaged(tmp_path: Path) -> None:
    write_vit(tmp_path / "vit")
    loaded = load_image_encoder(tmp_path / "vit", pooling="mean", normalise=False)
    pixels = torch.randn(2, 3, SIZE, SIZE)
    model = transformers.ViTModel.from_pretrained(tmp_path / "vit", add_pooling_layer=False).eval()
    with torch.no_grad():
        expected = model(pixels).last_hidden_state[:, 1:].mean(1)
        assert torch.allclose(loaded.tower(pixels), expected, atol=1e-6)
    assert loaded.part("image").pooling == "mean"


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    transformers.BertModel(transformers.BertConfig(**TOWER, vocab_size=30)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ExportError, match="model_type 'bert': supported image encoders are CLIP"):
        load_image_encoder(tmp_path / "bert")
    write_clip(tmp_path / "clip")
    with pytest.raises(ExportError, match="pooling 'mean' is not for a CLIPVisionModelWithProjection"):
        load_image_encoder(tmp_path / "clip", pooling="mean")
    (tmp_path / "clip" / "preprocessor_config.json").unlink()
    with pytest.raises(ExportError, match="has no image processor"):
        load_image_encoder(tmp_path / "clip")


def test_a_tower_without_its_projection_is_not_exported(tmp_path: Path) -> None:
    """By itself it would be loaded as a `CLIPVisionModel`, whose vectors are of another width and space."""
    write_clip(tmp_path / "whole")
    model = transformers.CLIPVisionModel.from_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "tower")
    (tmp_path / "tower" / "preprocessor_config.json").write_bytes(
        (tmp_path / "whole" / "preprocessor_config.json").read_bytes()
    )
    with pytest.raises(ExportError, match=r"missing: visual_projection\.weight"):
        load_image_encoder(tmp_path / "tower")
