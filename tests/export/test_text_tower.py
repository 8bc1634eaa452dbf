"""Text towers of CLIP and SigLIP: texts of unequal length, padded by the runtime, as transformers pads them itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from rag_infer.errors import ExportError
from rag_infer.export.checkpoint import find_checkpoint
from rag_infer.export.text_tower import load_tower, write_tower_graph
from rag_infer.session import Session
from rag_infer.text import pad

WORDS = [*"abcdefghijklmnopqrstuvwxyz"]
LENGTH = 15  # of the longest text; the runtime pads to 16
TOWER = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
TEXTS = ["a", "a b c", "z y x w v u t s r q p o n", "", "b b b b"]


def tokenizer_of(begin: str, end: str, padding: str) -> Any:
    """Words of one letter; the end has the highest number, as in CLIP's vocabulary."""
    special = list(dict.fromkeys([padding, begin, end] if padding != end else [begin, end]))
    vocabulary = {word: i for i, word in enumerate([*special[:-1], *WORDS, "[UNK]", special[-1]])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=padding, eos_token=end)


def write_clip(folder: Path, eos: int) -> tuple[Any, Callable[[], Any]]:
    tokenizer = tokenizer_of("<s>", "</s>", "</s>")
    text = {**TOWER, "vocab_size": 28 + 1, "max_position_embeddings": LENGTH, "projection_dim": 16}
    text |= {"eos_token_id": tokenizer.eos_token_id if eos != 2 else 2}
    vision = {**TOWER, "image_size": 16, "patch_size": 8, "projection_dim": 16}
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)
    model = shaken(transformers.CLIPModel(config))
    model.save_pretrained(folder)
    given = tokenizer(TEXTS, padding=True, return_tensors="pt")
    return tokenizer, lambda: model.get_text_features(given["input_ids"], given["attention_mask"])


def write_siglip(folder: Path) -> tuple[Any, Callable[[], Any]]:
    tokenizer = tokenizer_of("<s>", "</s>", "<pad>")
    text = {**TOWER, "vocab_size": 30, "max_position_embeddings": LENGTH, "projection_size": 24}
    vision = {**TOWER, "image_size": 16, "patch_size": 8}
    model = shaken(
        transformers.SiglipModel(transformers.SiglipConfig(vision_config=vision, text_config=text))
    )
    model.save_pretrained(folder)
    # As its processor does: to the whole length, and without a mask.
    given = tokenizer(TEXTS, padding="max_length", max_length=LENGTH, return_tensors="pt")
    return tokenizer, lambda: model.get_text_features(given["input_ids"])


def shaken(model: Any) -> Any:
    """With weights of which none are alike by chance."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


WRITERS: dict[str, Callable[[Path], tuple[Any, Callable[[], Any]]]] = {
    "clip": lambda folder: write_clip(folder, 0),
    "clip, of old": lambda folder: write_clip(folder, 2),
    "siglip": write_siglip,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("normalise", [True, False])
def test_the_graph_gives_what_transformers_gives(tmp_path: Path, name: str, normalise: bool) -> None:
    tokenizer, features = WRITERS[name](tmp_path / "checkpoint")
    checkpoint = find_checkpoint(tmp_path / "checkpoint")
    tower, ignored = load_tower(checkpoint, name.partition(",")[0], tokenizer, normalise=normalise)
    assert any(key.startswith("vision_model.") for key in ignored)
    write_tower_graph(tower, tmp_path / "model.onnx")
    ids, mask = pad([tokenizer(text)["input_ids"] for text in TEXTS], pad_id=0)
    found = Session(tmp_path / "model.onnx").run({"input_ids": ids, "attention_mask": mask})[0]
    with torch.no_grad():
        expected = features()
        expected = torch.nn.functional.normalize(expected, dim=-1) if normalise else expected
    assert found.shape == (len(TEXTS), tower.dim)
    assert np.abs(found - expected.numpy()).max() < 1e-5
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_a_tower_without_its_projection_is_not_exported(tmp_path: Path) -> None:
    tokenizer, _ = write_clip(tmp_path / "whole", 0)
    transformers.CLIPTextModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "tower")
    with pytest.raises(ExportError, match=r"missing: text_projection\.weight"):
        load_tower(find_checkpoint(tmp_path / "tower"), "clip_text_model", tokenizer, normalise=True)
