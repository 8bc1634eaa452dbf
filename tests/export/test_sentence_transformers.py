"""What a sentence-transformers folder says, and what of it is not supported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag_infer.bundle import Bundle
from rag_infer.encode import TextEncoder
from rag_infer.export import export_bundle
from rag_infer.parts import EncoderPart
from tests.export.checkpoints import write_json, write_sentence_transformers, write_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "c").mkdir()
    write_sentence_transformers(tmp_path / "c")
    return tmp_path / "c"


def part_of(bundle: Bundle) -> EncoderPart:
    part = bundle.manifest.question_encoder
    assert part is not None
    return part


def vectors(bundle: Bundle, texts: list[str]) -> NDArray[np.float32]:
    return TextEncoder.from_bundle(bundle, part_of(bundle), threads=1).encode(texts)


@pytest.mark.parametrize("lower_case", [True, False])
def test_lower_case(folder: Path, tmp_path: Path, lower_case: bool) -> None:
    """The module's own setting, beside that of a tokenizer which tells cases apart."""
    write_tokenizer(folder, do_lower_case=False)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": lower_case})
    found = vectors(export_bundle(tmp_path / "b", question_encoder=folder), ["WHO?", "who?"])
    assert np.array_equal(found[0], found[1]) == lower_case


def test_lower_case_where_the_tokenizer_normalises_nothing(folder: Path, tmp_path: Path) -> None:
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": True})
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": None}))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    write_json(folder / "tokenizer_config.json", settings)
    found = vectors(export_bundle(tmp_path / "b", question_encoder=folder), ["WHO?", "who?"])
    np.testing.assert_array_equal(found[0], found[1])


def test_body_in_its_own_folder(folder: Path, tmp_path: Path) -> None:
    wanted = vectors(export_bundle(tmp_path / "flat", question_encoder=folder), ["who?", "a river"])
    body = folder / "0_Transformer"
    body.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and not path.name.startswith(("modules", "config_sentence")):
            path.rename(body / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(folder / "modules.json", modules)
    bundle = export_bundle(tmp_path / "b", question_encoder=folder)
    np.testing.assert_array_equal(vectors(bundle, ["who?", "a river"]), wanted)
    assert part_of(bundle).max_length == 16


@pytest.mark.parametrize(("asked", "kept"), [(None, 40), (4000, 40)])
def test_longest_text(folder: Path, tmp_path: Path, asked: int | None, kept: int) -> None:
    """Never more than the body has positions for."""
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": asked, "do_lower_case": False})
    bundle = export_bundle(tmp_path / "b", question_encoder=folder)
    assert part_of(bundle).max_length == kept
    same = "a" * (kept - 2)
    found = vectors(bundle, [same.replace("a", "a "), (same + "xyz" * 50).replace("a", "a ")])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


@pytest.mark.parametrize(
    ("declared", "question", "passage"),
    [
        ({"prompts": {"query": "q: ", "document": "d: "}}, "q: ", "d: "),
        ({"prompts": {"query": "q: ", "both": "b: "}, "default_prompt_name": "both"}, "q: ", "b: "),
        ({"prompts": {"clustering": "c: "}}, "", ""),
    ],
)
def test_prompts(folder: Path, tmp_path: Path, declared: dict[str, Any], question: str, passage: str) -> None:
    write_json(folder / "config_sentence_transformers.json", declared)
    bundle = export_bundle(tmp_path / "b", question_encoder=folder)
    other = bundle.manifest.passage_encoder
    assert other is not None
    assert (part_of(bundle).prefix, other.prefix) == (question, passage)
    # A prompt is text before the text.
    plain = TextEncoder.from_bundle(bundle, replace(other, prefix=""), threads=1)
    wanted = plain.encode([question + "who?"])
    np.testing.assert_allclose(vectors(bundle, ["who?"]), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("declared", "asked", "found", "normalised"),
    [
        ("cosine", None, "cosine", True),
        ("dot", None, "dot", False),
        ("dot", "cosine", "cosine", True),
    ],
)
def test_similarity_without_a_normalize_module(
    tmp_path: Path, declared: str | None, asked: str | None, found: str, normalised: bool
) -> None:
    (tmp_path / "c").mkdir()
    write_sentence_transformers(tmp_path / "c", normalise=False)
    write_json(tmp_path / "c" / "config_sentence_transformers.json", {"similarity_fn_name": declared})
    bundle = export_bundle(tmp_path / "b", question_encoder=tmp_path / "c", similarity=asked)
    assert bundle.manifest.retrieval.similarity == found
    assert part_of(bundle).normalise == normalised
    lengths = np.linalg.norm(vectors(bundle, ["who?", "a river"]), axis=1)
    assert np.allclose(lengths, 1, atol=1e-6) == normalised
