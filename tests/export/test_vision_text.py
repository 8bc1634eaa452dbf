"""The PyTorch model that reads images and text: what it computes, and that it comes back from its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from rag_infer.export.vision_text import VisionTextModel

SIZE = 16
TOWER = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3}


def bart() -> Any:
    return transformers.BartForConditionalGeneration(
        transformers.BartConfig(
            vocab_size=60,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_position_embeddings=48,
            scale_embedding=True,
            init_std=0.3,
        )
    )


def vit() -> Any:
    return transformers.ViTModel(transformers.ViTConfig(**TOWER, image_size=SIZE, patch_size=8))


def clip() -> Any:
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TOWER, image_size=SIZE, patch_size=8))


def resnet() -> Any:
    return transformers.ResNetModel(
        transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_channels=3
        )
    )


def inputs() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(1)
    mask = torch.ones(3, 6, dtype=torch.int64)
    mask[1, 4:] = 0
    return {
        "input_ids": torch.randint(4, 60, (3, 6), generator=draw),
        "attention_mask": mask,
        "pixel_values": torch.randn(3, 2, 3, SIZE, SIZE, generator=draw),
        "labels": torch.randint(4, 60, (3, 5), generator=draw),
    }


@pytest.mark.parametrize(("vision", "places"), [(vit, 5), (clip, 5), (resnet, 4)])
def test_a_model_comes_back_from_its_folder(tmp_path: Path, vision: Any, places: int) -> None:
    torch.manual_seed(0)
    model = VisionTextModel(bart(), vision()).eval()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["images"] == ["question", "passage"]
    loaded = VisionTextModel.from_pretrained(tmp_path, attention="eager")
    assert type(loaded.vision) is type(model.vision)
    given = inputs()
    assert loaded.image_features(given["pixel_values"][:, 0]).shape == (3, places, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**given), model(**given), rtol=1e-4, atol=1e-5)


def test_images_change_the_logits_and_padding_does_not() -> None:
    torch.manual_seed(0)
    model = VisionTextModel(bart(), vit()).eval()
    given = inputs()
    with torch.no_grad():
        logits = model(**given)
        padded = {**given, "input_ids": given["input_ids"].clone()}
        padded["input_ids"][1, 4:] = 7  # not attended to
        torch.testing.assert_close(model(**padded), logits)
        swapped = model(**{**given, "pixel_values": given["pixel_values"].flip(1)})
    assert (swapped - logits).abs().amax(dim=(1, 2)).min() > 1e-5


def test_the_loss_reaches_every_part_and_a_saved_model_is_tied(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = VisionTextModel(bart(), vit(), images=["question"])
    given = inputs()
    logits = model(**{**given, "pixel_values": given["pixel_values"][:, :1]})
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), given["labels"].flatten()).backward()
    unmoved = [name for name, p in model.named_parameters() if p.grad is None]
    assert unmoved == []
    model.save_pretrained(tmp_path)
    loaded = VisionTextModel.from_pretrained(tmp_path)
    assert loaded.config.images == ["question"]
    assert loaded.text.lm_head.weight is loaded.text.get_encoder().embed_tokens.weight


def test_what_does_not_fit_is_refused() -> None:
    model = VisionTextModel(bart(), vit())
    given = inputs()
    with pytest.raises(ValueError, match=r"\['question', 'passage'\], but pixel_values has 1"):
        model(**{**given, "pixel_values": given["pixel_values"][:, :1]})
    with pytest.raises(ValueError, match="either labels or decoder_input_ids"):
        model(**{**given, "decoder_input_ids": given["labels"]})
    with pytest.raises(ValueError, match="in that order"):
        VisionTextModel(bart(), vit(), images=["passage", "question"])
    with pytest.raises(TypeError, match="got BartForConditionalGeneration"):
        VisionTextModel(bart(), bart())
