"""A bundle that is not exactly what its manifest says is refused, with the file and what was expected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag_infer.bundle import FORMAT_VERSION, Bundle, Manifest, record_files, sealed
from rag_infer.errors import BundleError
from rag_infer.parts import CausalGeneratorPart, EncoderPart, PromptTemplate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle whose graphs are a few bytes: nothing here runs them."""
    folder = tmp_path / "bundle"
    for part in ("encoder", "generator"):
        (folder / part).mkdir(parents=True)
        (folder / part / "graph.onnx").write_bytes(part.encode() * 100)
    encoder = EncoderPart(path="encoder", dim=4, pooling="mean", normalise=True, max_length=8)
    generator = CausalGeneratorPart(
        path="generator",
        vocab_size=10,
        num_layers=1,
        num_kv_heads=1,
        head_dim=2,
        max_positions=16,
        bos_token_id=None,
        eos_token_ids=(2,),
        pad_token_id=0,
        prompt=PromptTemplate(preamble="", passage="{title} {text}", question="{question}"),
    )
    manifest = Manifest(
        created_by="test",
        precision="fp32",
        question_encoder=encoder,
        passage_encoder=encoder,
        generator=generator,
        files=record_files(folder),
    )
    (folder / "bundle.json").write_text(manifest.to_json(), encoding="utf-8")
    return folder


def change(folder: Path, edit: Callable[[dict[str, Any]], None], *, seal: bool = True) -> None:
    path = folder / "bundle.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(json.dumps(sealed(data) if seal else data), encoding="utf-8")


def test_round_trip(folder: Path) -> None:
    manifest = Bundle.load(folder).manifest
    assert manifest.to_json() == (folder / "bundle.json").read_text(encoding="utf-8")
    assert manifest.generator is not None
    assert manifest.generator.eos_token_ids == (2,)


def test_fingerprint_is_of_the_contents(folder: Path) -> None:
    bundle = Bundle.load(folder)
    encoder, generator = bundle.manifest.question_encoder, bundle.manifest.generator
    assert encoder is not None
    assert generator is not None
    assert bundle.fingerprint(encoder) != bundle.fingerprint(generator)
    (folder / "encoder").rename(folder / "moved")
    change(
        folder,
        lambda d: d.update(
            question_encoder={**d["question_encoder"], "path": "moved"},
            passage_encoder=None,
            files={k.replace("encoder/", "moved/"): v for k, v in d["files"].items()},
        ),
    )
    moved = Bundle.load(folder)
    assert moved.manifest.question_encoder is not None
    assert moved.fingerprint(moved.manifest.question_encoder) == bundle.fingerprint(encoder)


@pytest.mark.parametrize("position", [0, 50, -1])
def test_one_byte_altered(folder: Path, position: int) -> None:
    path = folder / "generator" / "graph.onnx"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"generator/graph\.onnx has sha256 .* expected .*: altered"):
        Bundle.load(folder)


def test_missing_file(folder: Path) -> None:
    (folder / "encoder" / "graph.onnx").unlink()
    with pytest.raises(BundleError, match=r"encoder/graph\.onnx is missing: expected 700 bytes"):
        Bundle.load(folder)


def test_file_cut_short(folder: Path) -> None:
    (folder / "encoder" / "graph.onnx").write_bytes(b"enc")
    with pytest.raises(BundleError, match="has 3 bytes, expected 700"):
        Bundle.load(folder, check="size")


@pytest.mark.parametrize("part", [None, "question_encoder", "retrieval", "generator"])
def test_unknown_key(folder: Path, part: str | None) -> None:
    change(folder, lambda d: (d if part is None else d[part]).update(surprise=1))
    with pytest.raises(BundleError, match="unknown key 'surprise'"):
        Bundle.load(folder)


def test_altered_manifest(folder: Path) -> None:
    change(folder, lambda d: d["retrieval"].update(score_scale=90.0), seal=False)
    with pytest.raises(BundleError, match=r"bundle\.json does not have the sha256 it names \(\w+\): altered"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("question_encoder", {"path": 5}),
        ("question_encoder", {"normalise": 1}),
        ("question_encoder", {"dim": True}),
        ("retrieval", {"score_scale": "20"}),
        ("retrieval", {"score_scale": float("nan")}),
        ("generator", {"eos_token_ids": 5}),
        ("generator", {"eos_token_ids": ["2"]}),
        ("generator", {"prompt": {"preamble": 1, "passage": "", "question": ""}}),
        (None, {"parity": 5}),
        (None, {"precision": None}),
    ],
)
def test_entry_of_another_type(folder: Path, part: str | None, entry: dict[str, Any]) -> None:
    change(folder, lambda d: (d if part is None else d[part]).update(entry))
    with pytest.raises(BundleError, match="cannot be"):
        Bundle.load(folder)


def test_missing_key(folder: Path) -> None:
    change(folder, lambda d: d["question_encoder"].pop("dim"))
    with pytest.raises(BundleError, match=r"question_encoder.*'dim'"):
        Bundle.load(folder)


def test_newer_version(folder: Path) -> None:
    change(folder, lambda d: d.update(format_version=FORMAT_VERSION + 1, from_the_future=True))
    with pytest.raises(BundleError, match=f"format_version {FORMAT_VERSION + 1}, this rag_infer reads up to"):
        Bundle.load(folder)


def test_unknown_kind_of_generator(folder: Path) -> None:
    change(folder, lambda d: d["generator"].update(kind="diffusion"))
    with pytest.raises(BundleError, match="kind is 'diffusion'"):
        Bundle.load(folder)


def test_path_outside_the_bundle(folder: Path) -> None:
    change(folder, lambda d: d["files"].update({"../secret": {"sha256": "0", "size": 1}}))
    with pytest.raises(BundleError, match="outside the bundle"):
        Bundle.load(folder)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"format_version": "1"}'])
def test_not_a_manifest(folder: Path, content: bytes) -> None:
    (folder / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        Bundle.load(folder)


def test_no_such_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.load(tmp_path / "file")
