"""The whole way with a RAG checkpoint: export, index, ask; the answer is transformers' for the same passages."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from rag_infer import KnowledgeBase, Passage, RagEngine
from rag_infer.bundle import Bundle
from rag_infer.cli.main import main
from rag_infer.errors import BundleError, ExportError
from rag_infer.export import export_bundle, reverify_bundle
from rag_infer.export.tracing import quiet_transformers
from rag_infer.generate.seq2seq import Seq2SeqDecoder
from rag_infer.parts import Seq2SeqGeneratorPart
from rag_infer.verify import verify_bundle
from tests.seq2seq_checkpoints import save_tokenizer, write_passage_encoder, write_rag

QUESTION = "Where is the longest river?"
PASSAGES = [
    Passage(id=f"p{i}", title=title, text=text)
    for i, (title, text) in enumerate(
        [
            ("the river", "the longest river flows through the capital"),
            ('"tower"', "who built the old tower  in the city"),
            ("capital", "the largest city is the capital"),
            ("city", "what is old is old"),
        ]
    )
]
KINDS = [
    ("RagTokenForGeneration", "bart"),
    ("RagSequenceForGeneration", "bart"),
    ("RagTokenForGeneration", "t5"),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(kind))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """(the model, a folder with checkpoint, passage encoder, bundle and knowledge base)."""
    architecture, family = request.param
    folder = tmp_path_factory.mktemp("rag")
    settings: dict[str, Any] = {"n_docs": 3, "max_combined_length": 48, "generation": {"max_length": 9}}
    # As it is read back: a saved RagSequenceForGeneration has no generation settings.
    model = (
        type(write_rag(folder / "rag", architecture, family, **settings))
        .from_pretrained(folder / "rag")
        .eval()
    )
    write_passage_encoder(folder / "passage")
    bundle = folder / "bundle"
    status = main(
        ["export", str(bundle), "--rag", str(folder / "rag"), "--passage-encoder", str(folder / "passage")]
    )
    assert status == 0
    with KnowledgeBase.create(folder / "kb", bundle=bundle) as kb:
        kb.upsert(PASSAGES)
    return model, folder


def test_manifest(exported: tuple[Any, Path]) -> None:
    model, folder = exported
    manifest = Bundle.load(folder / "bundle").manifest
    assert manifest.question_encoder is not None
    assert manifest.question_encoder.dim == 768
    assert (manifest.retrieval.similarity, manifest.retrieval.score_scale) == ("dot", 1.0)
    assert manifest.retrieval.n_docs == 3
    part = manifest.generator
    assert isinstance(part, Seq2SeqGeneratorPart)
    assert part.composing.decoded_question
    sequence = type(model).__name__ == "RagSequenceForGeneration"
    assert manifest.generation["strategy"] == ("rag-sequence" if sequence else "rag-token")
    assert manifest.generation.get("max_length") == (None if sequence else 9)


def test_the_answer_is_that_of_transformers(exported: tuple[Any, Path]) -> None:
    model, folder = exported
    with RagEngine.from_pretrained(folder / "bundle", knowledge_base=folder / "kb") as engine:
        answer = engine.generate(QUESTION)
        streamed = list(engine.stream(QUESTION))
    assert len(answer.passages) == 3
    generator_tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "rag" / "generator_tokenizer")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "rag" / "question_encoder_tokenizer")
    question = tokenizer(QUESTION, return_tensors="pt")
    hits = answer.passages
    scores = [passage.score for passage in hits]
    retriever: Any = SimpleNamespace(config=model.config, generator_tokenizer=generator_tokenizer)
    docs = [{"title": [p.title for p in hits], "text": [p.text for p in hits]}]
    strings = tokenizer.batch_decode(question["input_ids"], skip_special_tokens=True)
    ids, mask = transformers.RagRetriever.postprocess_docs(
        retriever, docs, strings, model.config.generator.prefix, len(hits), return_tensors="pt"
    )
    with torch.no_grad(), quiet_transformers():
        output = model.generate(
            context_input_ids=ids,
            context_attention_mask=mask,
            doc_scores=torch.tensor([scores]),
            n_docs=len(hits),
        )
    wanted = generator_tokenizer.decode(output[0], skip_special_tokens=True)
    assert answer.text == wanted.strip()
    assert "".join(t.text for t in streamed).strip() == answer.text
    posterior = np.array([p.posterior for p in answer.passages])
    assert posterior.sum() == pytest.approx(1, abs=1e-5)


def test_verified_with_and_without_pytorch(exported: tuple[Any, Path]) -> None:
    _, folder = exported
    assert all(check.passed for check in verify_bundle(folder / "bundle"))
    checks = reverify_bundle(folder / "bundle")
    assert [c.against for c in checks] == ["sha256", "PyTorch", "PyTorch", "PyTorch"]
    assert all(check.passed for check in checks)


def test_no_engine_from_altered_weights(exported: tuple[Any, Path], tmp_path: Path) -> None:
    """One bit of the weights, which are checked while ONNX Runtime loads them."""
    _, folder = exported
    for part in ("question_encoder", "generator"):
        bundle = tmp_path / part
        shutil.copytree(folder / "bundle", bundle)
        weights = next((bundle / part).glob("*.data"))
        data = bytearray(weights.read_bytes())
        data[len(data) // 2] ^= 1
        weights.write_bytes(data)
        Bundle.load(bundle, check="graphs")
        with pytest.raises(BundleError, match=rf"{weights.name} has sha256 .*: altered"):
            RagEngine.from_pretrained(bundle, knowledge_base=folder / "kb")


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_rag(tmp_path / "rag", "RagTokenForGeneration", "bart")
    larger = SimpleNamespace(config=SimpleNamespace(bos_token_id=0, eos_token_id=2, pad_token_id=1))
    save_tokenizer(tmp_path / "rag" / "generator_tokenizer", larger, size=200)
    with pytest.raises(ExportError, match=r"200 tokens, the model a vocabulary of 96"):
        export_bundle(tmp_path / "bundle", rag=tmp_path / "rag")


@pytest.mark.parametrize("architecture", ["RagTokenForGeneration", "RagModel"])
@pytest.mark.parametrize("settings", [{"max_shard_size": "40KB"}, {"safe_serialization": False}])
def test_every_way_of_saving_gives_the_same_bundle(
    tmp_path: Path, architecture: str, settings: dict[str, Any]
) -> None:
    """Both weight prefixes ("rag." and none), sharded and pickled weights."""
    model = write_rag(tmp_path / "rag", "RagTokenForGeneration", "bart", max_combined_length=48)
    saved = model if architecture == "RagTokenForGeneration" else model.rag
    shutil.copytree(tmp_path / "rag", tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors"))
    saved.save_pretrained(tmp_path / "other", **settings)
    if architecture == "RagModel":
        saved.generator.generation_config.save_pretrained(tmp_path / "other")
    expected, found = (export_bundle(tmp_path / f"bundle-{n}", rag=tmp_path / n) for n in ("rag", "other"))
    data = [name for name in expected.manifest.files if name.endswith((".onnx", ".data"))]
    assert len(data) >= 4
    for name in data:
        assert found.manifest.files[name] == expected.manifest.files[name], name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("rag.generator.model.decoder.layers.1.fc1.weight"), "missing.*layers.1.fc1.weight"),
        (lambda w: w.update({"rag.generator.model.extra": torch.zeros(3)}), "rag.generator.model.extra"),
        (
            lambda w: w.update({"rag.generator.model.decoder.layers.1.fc1.weight": torch.zeros(24, 15)}),
            "layers.1.fc1.weight",
        ),
    ],
    ids=["missing", "left over", "another shape"],
)
def test_weights_that_do_not_match_are_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    write_rag(tmp_path / "rag", "RagTokenForGeneration", "bart")
    weights = load_file(tmp_path / "rag" / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "rag" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=message):
        export_bundle(tmp_path / "bundle", rag=tmp_path / "rag")
    assert not (tmp_path / "bundle").exists()


def test_half_a_checkpoint_is_refused(tmp_path: Path) -> None:
    write_rag(tmp_path / "rag", "RagTokenForGeneration", "bart")
    with pytest.raises(ValueError, match="not both"):
        export_bundle(tmp_path / "bundle", rag=tmp_path / "rag", generator=tmp_path / "rag")
    (tmp_path / "rag" / "question_encoder_tokenizer").rename(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match="question_encoder_tokenizer"):
        export_bundle(tmp_path / "bundle", rag=tmp_path / "rag")


def test_a_rag_token_checkpoint_names_its_own_special_tokens(tmp_path: Path) -> None:
    settings = {"decoder_start_token_id": 7, "eos_token_id": 8}
    model = write_rag(tmp_path / "rag", "RagTokenForGeneration", "bart", max_combined_length=48)
    model.generation_config.update(**settings)
    model.generation_config.save_pretrained(tmp_path / "rag")
    part = export_bundle(tmp_path / "bundle", rag=tmp_path / "rag").manifest.generator
    assert isinstance(part, Seq2SeqGeneratorPart)
    assert (part.decoder_start_token_id, part.eos_token_ids) == (7, (8,))


def test_closing_a_stream_stops_the_weighing(
    exported: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that is closed while RAG-Sequence's candidates are scored gives no token and no answer."""
    _, folder = exported
    with RagEngine.from_pretrained(folder / "bundle", knowledge_base=folder / "kb") as engine:
        stream = engine.stream(QUESTION, strategy="rag-sequence")
        score, scored = Seq2SeqDecoder.teacher_force, []

        def closing(self: Seq2SeqDecoder, *arguments: Any, **settings: Any) -> Any:
            stream.close()
            scored.append(score(self, *arguments, **settings))
            return scored[-1]

        monkeypatch.setattr(Seq2SeqDecoder, "teacher_force", closing)
        assert list(stream) == []
        assert stream.answer is None
        assert scored == []  # the run itself was stopped
