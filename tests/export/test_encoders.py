"""Every kind of text encoder: the bundle's vectors against the checkpoint's, computed here by transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import BertTokenizerFast

from rag_infer.bundle import Bundle
from rag_infer.encode import TextEncoder
from rag_infer.errors import ExportError
from rag_infer.export import export_bundle
from rag_infer.parts import EncoderPart
from tests.export.checkpoints import TEXTS, write_bert, write_dpr, write_sentence_transformers


def vectors(bundle: Bundle, role: str = "question") -> NDArray[np.float32]:
    """The runtime's."""
    part = getattr(bundle.manifest, f"{role}_encoder")
    return TextEncoder.from_bundle(bundle, part, threads=1).encode(TEXTS)


def expected(
    folder: Path, model: Any, vector: Callable[[Any, torch.Tensor], torch.Tensor], *, max_length: int = 40
) -> NDArray[np.float32]:
    """The checkpoint's, text by text, without padding."""
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    rows = []
    for text in TEXTS:
        inputs = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.no_grad():
            rows.append(vector(model(**inputs), inputs["attention_mask"])[0])
    return torch.stack(rows).numpy()


def mean(output: Any, mask: torch.Tensor) -> torch.Tensor:
    return output.last_hidden_state.sum(1) / mask.sum(1, keepdim=True)


def cls(output: Any, _: torch.Tensor) -> torch.Tensor:
    return output.last_hidden_state[:, 0]


def pooler(output: Any, _: torch.Tensor) -> torch.Tensor:
    return output.pooler_output


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("pooling", "vector"), [("mean", mean), ("cls", cls)])
def test_sentence_transformers(tmp_path: Path, pooling: str, vector: Any, normalise: bool) -> None:
    (tmp_path / "c").mkdir()
    model = write_sentence_transformers(tmp_path / "c", pooling=pooling, normalise=normalise)
    bundle = export_bundle(tmp_path / "b", question_encoder=tmp_path / "c")
    wanted = expected(tmp_path / "c", model, vector, max_length=16)
    if normalise:
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors(bundle), wanted, atol=1e-5)
    part = bundle.manifest.question_encoder
    assert part == EncoderPart(
        path="question_encoder", dim=32, pooling=pooling, normalise=normalise, max_length=16
    )
    retrieval = bundle.manifest.retrieval
    assert (retrieval.similarity, retrieval.score_scale) == (("cosine", 20.0) if normalise else ("dot", 1.0))


@pytest.mark.parametrize(("pooling", "vector"), [("mean", mean), ("cls", cls), ("pooler", pooler)])
def test_bert(tmp_path: Path, pooling: str, vector: Any) -> None:
    model = write_bert_folder(tmp_path / "c")
    bundle = export_bundle(tmp_path / "b", question_encoder=tmp_path / "c", pooling=pooling)
    np.testing.assert_allclose(vectors(bundle), expected(tmp_path / "c", model, vector), atol=1e-5)
    ignored = bundle.manifest.parity["question_encoder"]["ignored_keys"]
    assert set(ignored) == (set() if pooling == "pooler" else {"pooler.dense.weight", "pooler.dense.bias"})


@pytest.mark.parametrize("projection_dim", [0, 12])
def test_dpr(tmp_path: Path, projection_dim: int) -> None:
    models = {}
    for side in ("question", "passage"):
        (tmp_path / side).mkdir()
        models[side] = write_dpr(tmp_path / side, side, projection_dim=projection_dim)
    bundle = export_bundle(
        tmp_path / "b", question_encoder=tmp_path / "question", passage_encoder=tmp_path / "passage"
    )
    for side, model in models.items():
        wanted = expected(tmp_path / side, model, pooler)
        assert wanted.shape[1] == (projection_dim or 32)
        np.testing.assert_allclose(vectors(bundle, side), wanted, atol=1e-5)
    assert {p.name for p in bundle.folder.iterdir()} == {"bundle.json", "question_encoder", "passage_encoder"}
    assert bundle.manifest.retrieval.score_scale == 1.0


def test_one_encoder_for_both_sides_is_stored_once(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    write_sentence_transformers(tmp_path / "c", prompts={"query": "q: ", "passage": "p: "})
    bundle = export_bundle(tmp_path / "b", question_encoder=tmp_path / "c", passage_encoder=tmp_path / "c")
    question, passage = bundle.manifest.question_encoder, bundle.manifest.passage_encoder
    assert question is not None
    assert passage is not None
    assert (question.path, question.prefix) == ("question_encoder", "q: ")
    assert (passage.path, passage.prefix) == ("question_encoder", "p: ")
    assert {p.name for p in bundle.folder.iterdir()} == {"bundle.json", "question_encoder"}
    assert not np.allclose(vectors(bundle), vectors(bundle, "passage"))


def write_bert_folder(folder: Path, **settings: Any) -> Any:
    folder.mkdir()
    return write_bert(folder, **settings)


def test_refused(tmp_path: Path) -> None:
    write_bert_folder(tmp_path / "bert")
    write_bert_folder(tmp_path / "wide", hidden_size=64)
    write_bert_folder(tmp_path / "headless", pooler=False)
    (tmp_path / "dpr").mkdir()
    write_dpr(tmp_path / "dpr", "passage")
    (tmp_path / "max").mkdir()
    write_sentence_transformers(tmp_path / "max", pooling="max")
    (tmp_path / "empty").mkdir()
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"question_encoder": tmp_path / "dpr"},
            "is a DPRContextEncoder: a question encoder is a DPRQuestionEncoder",
        ),
        ({"question_encoder": tmp_path / "bert", "pooling": "max"}, "unknown pooling 'max'"),
        ({"question_encoder": tmp_path / "bert", "similarity": "l2"}, "unknown similarity 'l2'"),
        ({"question_encoder": tmp_path / "headless", "pooling": "pooler"}, "missing: pooler.dense.bias"),
        ({"question_encoder": tmp_path / "max"}, "pooling_mode_max_tokens"),
        ({"question_encoder": tmp_path / "empty"}, "no config.json"),
        ({"question_encoder": tmp_path / "nowhere"}, "no checkpoint at"),
        (
            {"question_encoder": tmp_path / "bert", "passage_encoder": tmp_path / "wide"},
            "have 32 dimensions, the passage encoder's 64",
        ),
    ]
    for settings, message in cases:
        with pytest.raises(ExportError, match=message):
            export_bundle(tmp_path / "out", **settings)
        assert not list(tmp_path.glob("*out*")), settings
