"""Bundles with an image encoder: exported, proven, loaded, verified; and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rag_infer.bundle import MANIFEST, Bundle, sealed
from rag_infer.encode import TextEncoder
from rag_infer.errors import BundleError, ExportError, ImageError
from rag_infer.export import export_bundle
from rag_infer.export.reverify import reverify_bundle
from rag_infer.images.encode import ImageEncoder
from rag_infer.verify import verify_bundle
from tests.export.test_image_encoder import SIZE, images, write_clip, write_vit
from tests.export.test_text_tower import TEXTS, tokenizer_of


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "checkpoint"
    write_clip(folder)
    tokenizer_of("<s>", "</s>", "</s>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    export_bundle(folder, text_encoder=clip, image_encoder=clip)
    return folder


def test_texts_and_images_lie_in_one_space(bundle: Path) -> None:
    loaded = Bundle.load(bundle)
    manifest = loaded.manifest
    assert manifest.image_encoder is not None
    assert manifest.image_encoder.processing.mean
    assert manifest.retrieval.similarity == "cosine"
    texts = TextEncoder.from_bundle(loaded, manifest.passage_encoder).encode(TEXTS)
    pictures = ImageEncoder.from_bundle(loaded).encode(images())
    assert texts.shape[1] == pictures.shape[1] == 16
    for vectors in (texts, pictures):
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_bundle_is_verified_and_compared_again(bundle: Path) -> None:
    names = ["files", "question_encoder", "image_encoder"]
    checks = verify_bundle(bundle)
    assert [(c.name, c.passed) for c in checks] == [(name, True) for name in names]
    again = reverify_bundle(bundle)
    assert [(c.name, c.against, c.passed) for c in again[1:]] == [(n, "PyTorch", True) for n in names[1:]]


def test_what_space_is_shared(clip: Path, bundle: Path, tmp_path: Path) -> None:
    assert Bundle.load(bundle).manifest.retrieval.shared_space
    write_vit(tmp_path / "vit")
    apart = export_bundle(tmp_path / "apart", text_encoder=clip, image_encoder=tmp_path / "vit")
    assert not apart.manifest.retrieval.shared_space
    with pytest.raises(
        ValueError, match="texts have vectors of 16 dimensions and images of 24: that is no shared"
    ):
        export_bundle(tmp_path / "no", text_encoder=clip, image_encoder=tmp_path / "vit", shared_space=True)
    with pytest.raises(
        ValueError, match="a shared space is for a text encoder and an image encoder: give both"
    ):
        export_bundle(tmp_path / "no", image_encoder=clip, shared_space=True)
    said = export_bundle(tmp_path / "said", text_encoder=clip, image_encoder=clip, shared_space=False)
    assert not said.manifest.retrieval.shared_space


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions(clip: Path, bundle: Path, tmp_path: Path, precision: str) -> None:
    export_bundle(tmp_path / "bundle", text_encoder=clip, image_encoder=clip, precision=precision)
    assert all(check.passed for check in verify_bundle(tmp_path / "bundle"))
    exact = ImageEncoder.from_bundle(Bundle.load(bundle)).encode(images())
    found = ImageEncoder.from_bundle(Bundle.load(tmp_path / "bundle")).encode(images())
    assert np.abs(found - exact).max() < 0.05
    assert not np.array_equal(found, exact)


def test_an_image_encoder_alone(tmp_path: Path) -> None:
    write_vit(tmp_path / "vit")
    bundle = export_bundle(
        tmp_path / "bundle", image_encoder=tmp_path / "vit", similarity="dot", pooling="mean"
    )
    part = bundle.manifest.image_encoder
    assert part is not None
    assert (part.pooling, part.normalise, part.dim) == ("mean", False, 24)
    assert part.processing.height == SIZE
    with pytest.raises(BundleError, match="has no image encoder: export one with --image-encoder"):
        ImageEncoder.from_bundle(
            Bundle(bundle.folder, type(bundle.manifest)(created_by="", precision="fp32"))
        )


def test_bad_input(bundle: Path, clip: Path, tmp_path: Path) -> None:
    encoder = ImageEncoder.from_bundle(Bundle.load(bundle))
    (tmp_path / "words.png").write_text("words")
    with pytest.raises(ImageError, match=r"words\.png is no image"):
        encoder.encode([images()[0], tmp_path / "words.png"])
    for single in ("a.png", b"bytes", images()[0]):
        with pytest.raises(TypeError, match="images must be a sequence of images"):
            encoder.encode(single)  # type: ignore[arg-type]
    assert encoder.encode([]).shape == (0, 16)
    with pytest.raises(ValueError, match="a text encoder reads questions and passages"):
        export_bundle(tmp_path / "other", text_encoder=clip, question_encoder=clip)
    with pytest.raises(ExportError, match="it has a pooling of its own"):
        export_bundle(tmp_path / "other", text_encoder=clip, pooling="mean")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"processing": None}, "image_encoder.processing must be an object"),
        ({"processing": {"resize": "exact", "height": 3}}, "image_encoder.processing"),
        ({"dim": "wide"}, "image_encoder: dim cannot be 'wide'"),
        ({"colour": "red"}, "image_encoder has the unknown key 'colour'"),
    ],
)
def test_an_altered_manifest(bundle: Path, tmp_path: Path, changed: dict[str, object], message: str) -> None:
    data = json.loads((bundle / MANIFEST).read_text())
    data["image_encoder"] |= changed
    (tmp_path / MANIFEST).write_text(json.dumps(sealed(data)))
    with pytest.raises(BundleError, match=message):
        Bundle.load(tmp_path)


def test_the_order_of_images_does_not_matter(bundle: Path) -> None:
    encoder = ImageEncoder.from_bundle(Bundle.load(bundle))
    given = [*images()] * 8  # more than one run
    order = torch.randperm(len(given), generator=torch.Generator().manual_seed(0)).tolist()
    vectors = encoder.encode(given)
    assert np.allclose(encoder.encode([given[i] for i in order]), vectors[order], atol=1e-6)
