"""Tokenizers that come as SentencePiece models: the bundle's file gives the ids of transformers' own tokenizer."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
import transformers

from rag_infer import Generator, TextEncoder
from rag_infer.export import export_bundle
from rag_infer.export.tokenizer_file import read_tokenizer_file
from tests.seq2seq_checkpoints import make_model

SOURCE = [
    "who built the old tower in the city",
    "the longest river flows through the capital",
    "where is the largest city of the land",
    "what is a river / a tower // an old capital",
]
TARGET = ["wer baute den alten Turm", "der längste Fluss fließt durch die Stadt", "wo ist die größte Stadt"]
KINDS = [
    ("t5", "T5Tokenizer", "spiece.model"),
    ("mbart", "MBartTokenizer", "sentencepiece.bpe.model"),
    ("pegasus", "PegasusTokenizer", "spiece.model"),
]


def train(texts: list[str]) -> bytes:
    """A small SentencePiece model."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 20),
        model_writer=written,
        vocab_size=60,
        hard_vocab_limit=False,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2},
    )
    return written.getvalue()


def strings(count: int) -> list[str]:
    """Random texts: known words, unknown letters, spaces of all kinds, digits, ligatures."""
    draw = random.Random(4)
    pool = [*" ".join(SOURCE).split(), *"xyzÄß漢é1ﬁ ", "  ", "ab cd", "Turm", "Fluß", ",", "\n"]
    return [" ".join(draw.choices(pool, k=draw.randint(1, 12))) for _ in range(count)]


@pytest.mark.parametrize(("family", "kind", "name"), KINDS)
def test_ids_of_transformers(tmp_path: Path, family: str, kind: str, name: str) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / name).write_bytes(train(SOURCE))
    settings: dict[str, Any] = {"extra_ids": 0} if family == "t5" else {}
    slow = getattr(transformers, kind)(str(folder / name), legacy=True, **settings)
    make_model(family, vocab_size=len(slow)).save_pretrained(folder)
    slow.save_pretrained(folder)
    assert not (folder / "tokenizer.json").exists()
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer = Generator(export_bundle(tmp_path / "bundle", generator=folder)).tokenizer
    for text in strings(50):
        assert tokenizer.encode(text) == fast(text, add_special_tokens=False).input_ids


def test_siglip(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(train(SOURCE))
    slow = transformers.SiglipTokenizer(str(tmp_path / "spiece.model"))
    slow.save_pretrained(tmp_path / "siglip")
    text: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "vocab_size": len(slow), "max_position_embeddings": 12}
    vision = {**text, "image_size": 16, "patch_size": 8}
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)).eval()
    model.save_pretrained(tmp_path / "siglip")
    bundle = export_bundle(tmp_path / "bundle", text_encoder=tmp_path / "siglip")
    encoder = TextEncoder.from_bundle(bundle, bundle.manifest.question_encoder)
    odd = [
        "",
        "!!",
        "  ",
        "/   ",
        "  a Photo",
        "A Photo of a CAT!  ",
        "a▁b",
        "▁a",
        "a\u00a0b\u3000c",
        "don't - ever",
        "É",
    ]
    texts = [*odd, *strings(300)]
    tokenizer = read_tokenizer_file(tmp_path / "bundle" / "question_encoder" / "tokenizer.json")
    for text_ in texts:
        assert tokenizer.encode(text_).ids == slow(text_).input_ids, text_
    said = [t for t in texts if len(slow(t).input_ids) in range(2, 12)][:20]
    given = slow(said, padding="max_length", max_length=12, return_tensors="pt")
    with torch.no_grad():  # with the padding in view, as it was trained: its checkpoints name no mask
        features = model.get_text_features(given["input_ids"])
        expected = torch.nn.functional.normalize(features, dim=-1).numpy()
    np.testing.assert_allclose(encoder.encode(said), expected, atol=1e-5)


def test_marian(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    models = {"source.spm": train(SOURCE), "target.spm": train(TARGET)}
    pieces: dict[str, int] = {"</s>": 0, "<unk>": 1, ">>deu<<": 2}
    for name, model in models.items():
        (folder / name).write_bytes(model)
        loaded = sentencepiece.SentencePieceProcessor(model_proto=model)
        for i in range(3, loaded.get_piece_size()):
            pieces.setdefault(loaded.id_to_piece(i), len(pieces))
    pieces["<pad>"] = len(pieces)
    (folder / "vocab.json").write_text(json.dumps(pieces), encoding="utf-8")
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    with pytest.warns(UserWarning, match="sacremoses"):
        slow = transformers.MarianTokenizer(*files)
    special = {"pad_token_id": pieces["<pad>"], "decoder_start_token_id": pieces["<pad>"], "eos_token_id": 0}
    make_model("marian", vocab_size=len(pieces), **special).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "MarianTokenizer"}', encoding="utf-8")
    tokenizer = Generator(export_bundle(tmp_path / "bundle", generator=folder)).tokenizer
    for text in [*strings(200), ">>deu<< who built the city"]:
        assert tokenizer.encode(text, add_special_tokens=True) == slow(text).input_ids, text
    for text in TARGET:
        ids = slow(text_target=text).input_ids
        assert tokenizer.decode(ids) == slow.decode(ids, skip_special_tokens=True) == text
