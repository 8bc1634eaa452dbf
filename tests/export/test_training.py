"""easy-VQA as it is read, and that both models learn from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rag_infer.bundle import Bundle
from rag_infer.cli.main import main
from rag_infer.encode import TextEncoder
from rag_infer.errors import CorpusError
from rag_infer.export import export_bundle
from rag_infer.export.image_processor import read_processing
from rag_infer.export.training.dual_encoder import DualEncoder
from rag_infer.export.training.easy_vqa import Facts, Question, Split, all_facts, known_facts, read_split
from rag_infer.export.training.easy_vqa_demo import (
    train_dual_encoder,
    train_generator,
    write_corpus,
    write_questions,
)
from rag_infer.export.training.generator import RagGenerator
from rag_infer.export.training.pictures import MovingObjects, pixel_values, save_processor
from rag_infer.export.training.retrieval import Memory
from rag_infer.export.training.retrieved_batches import Retrieval, without_passages
from rag_infer.export.training.schedule import Schedule
from rag_infer.export.training.word_tokenizer import END_ID
from rag_infer.generator import Generator
from rag_infer.images.encode import ImageEncoder
from rag_infer.images.processing import prepare
from rag_infer.text import pad
from tests.export.test_image_encoder import write_vit

STEPS = Schedule(steps=6, learning_rate=2e-3, warm_up=1, report_every=0)
RGB = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0)}


def write_data(folder: Path, name: str = "train", *, images: int = 24) -> None:
    """Rectangles of three colours, as the package keeps them."""
    draw, questions = np.random.default_rng(0), []
    (folder / name / "images").mkdir(parents=True)
    for i in range(images):
        colour = [*RGB][i % 3]
        pixels = np.full((64, 64, 3), 240, dtype=np.uint8)
        y, x = draw.integers(0, 40, 2)
        pixels[y : y + 20, x : x + 20] = RGB[colour]
        Image.fromarray(pixels).save(folder / name / "images" / f"{i}.png")
        questions += [
            ["what color is the rectangle?", colour, i],
            ["is there a red shape?", "yes" if colour == "red" else "no", i],
        ]
    (folder / name / "questions.json").write_text(json.dumps(questions))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return read_split(folder, "train")


@pytest.fixture(scope="module")
def encoder(split: Split) -> DualEncoder:
    return train_dual_encoder(split, STEPS)


@pytest.fixture(scope="module")
def generator(encoder: DualEncoder, split: Split) -> RagGenerator:
    return train_generator(encoder, split, STEPS)


@pytest.fixture(scope="module")
def bundle(encoder: DualEncoder, generator: RagGenerator, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("models")
    encoder.save(folder)
    generator.save(folder / "generator")
    return export_bundle(
        folder / "bundle",
        text_encoder=folder / "text",
        image_encoder=folder / "image",
        generator=folder / "generator",
        shared_space=True,
    )


def test_the_package(easy_vqa_data: Path) -> None:
    train, test = read_split(easy_vqa_data, "train"), read_split(easy_vqa_data, "test")
    assert [(len(s.images), len(s.questions)) for s in (train, test)] == [(4000, 38575), (1000, 9673)]
    assert [sum(f.whole for f in s.facts) for s in (train, test)] == [3578, 888]
    assert test.facts[0] == Facts("triangle", "red")
    assert test.pixels().shape == (1000, 64, 64, 3)


def test_known_facts() -> None:
    def ask(*entries: tuple[str, str]) -> Facts:
        return known_facts([Question(text, answer, 0) for text, answer in entries])

    assert ask() == Facts()
    assert ask(("what color is the circle?", "teal")) == Facts("circle", "teal")
    assert ask(("is no red shape present?", "no")) == Facts(None, "red")
    assert ask(("does the image not contain a circle?", "yes"), ("is there a triangle?", "no")) == Facts(
        "rectangle"
    )
    assert ask(("is there a red shape?", "no")) == Facts()
    assert len({facts.sentence for facts in all_facts()}) == 35


def test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"questions\.json cannot be read"):
        read_split(tmp_path, "train")
    write_data(tmp_path)
    (tmp_path / "train/images/3.png").unlink()
    with pytest.raises(CorpusError, match=r"lacks 1 of 24 images, such as .*3\.png"):
        read_split(tmp_path, "train")


def test_objects_move_whole(split: Split) -> None:
    pixels = torch.from_numpy(split.pixels())
    moved = MovingObjects(pixels)(torch.arange(24), torch.Generator().manual_seed(0))
    assert not torch.equal(moved, pixels)
    for before, after in zip(pixels, moved, strict=True):
        rows, columns = np.nonzero((after != 240).any(2).numpy())
        assert (np.ptp(rows), np.ptp(columns)) == (19, 19)
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)


def test_pixels_are_prepared_as_the_processor_says(split: Split, tmp_path: Path) -> None:
    save_processor(tmp_path, 64)
    pixels = split.pixels()[0]
    expected = prepare(pixels, read_processing(str(tmp_path)))
    assert np.abs(pixel_values(torch.from_numpy(pixels)[None])[0].numpy() - expected).max() < 1e-6


def test_memory_against_its_slow_twin() -> None:
    draw = torch.Generator().manual_seed(0)
    texts, images, q_t, q_v = (torch.randn(n, 5, generator=draw) for n in (9, 9, 2, 2))
    scores, found = Memory(texts, images, alpha=0.25).search(q_t, q_v, 3, without=torch.tensor([4, 0]))
    for i, own in enumerate((4, 0)):
        each = {
            j: float((0.25 * q_t[i] + 0.75 * q_v[i]) @ (0.25 * texts[j] + 0.75 * images[j]))
            for j in range(9)
            if j != own
        }
        best = sorted(each, key=lambda j: -each[j])[:3]
        assert found[i].tolist() == best
        assert scores[i].tolist() == pytest.approx([each[j] for j in best], abs=1e-5)


@pytest.mark.parametrize("train_one", ["dual encoder", "generator"])
def test_training_lowers_the_loss(
    train_one: str, encoder: DualEncoder, split: Split, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = replace(STEPS, steps=16, report_every=8)
    if train_one == "generator":
        train_generator(encoder, split, schedule)
    else:
        train_dual_encoder(split, schedule)
    first, last = (
        float(line.split("loss ")[1].split(",")[0]) for line in capsys.readouterr().out.splitlines()
    )
    assert last < first * 0.95


def test_a_question_does_not_find_its_own_image(encoder: DualEncoder, split: Split) -> None:
    other = replace(split, questions=split.questions)  # equal, but not the same: there it does
    sentences = replace(
        split, facts=tuple(Facts(None, c) if i else Facts("circle") for i, c in enumerate(["red"] * 24))
    )
    asked = [split.questions[0]]
    own = Retrieval(encoder, sentences, sentences).batch(asked, n_docs=23)
    assert "a circle" not in own.passages[0]
    assert "a circle" in Retrieval(encoder, sentences, other).batch(asked, n_docs=24).passages[0]
    assert without_passages(own).passages == [[""] * 23]


def test_the_towers_are_exported_into_one_space(bundle: Bundle, encoder: DualEncoder, split: Split) -> None:
    assert bundle.manifest.retrieval.shared_space
    pixels = split.pixels()[:3]
    seen = ImageEncoder.from_bundle(bundle).encode([*pixels])
    read = TextEncoder.from_bundle(bundle, bundle.manifest.passage_encoder).encode(
        ["a red circle", "a shape"]
    )
    assert np.abs(seen - encoder.encode_images(torch.from_numpy(pixels)).numpy()).max() < 1e-4
    assert np.abs(read - encoder.encode_texts(["a red circle", "a shape"]).numpy()).max() < 1e-4


def test_a_space_that_cannot_be_shared(
    encoder: DualEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder.save(tmp_path)
    with pytest.raises(ValueError, match="a shared space is for a text encoder and an image encoder"):
        export_bundle(tmp_path / "b", text_encoder=tmp_path / "text", shared_space=True)
    write_vit(tmp_path / "vit")
    towers = ["--text-encoder", str(tmp_path / "text"), "--image-encoder", str(tmp_path / "vit")]
    assert main(["export", str(tmp_path / "b"), *towers, "--shared-space"]) != 0
    assert "vectors of 64 dimensions and images of 24: that is no shared space" in capsys.readouterr().err


def test_the_training_loss_is_that_of_the_runtime(
    bundle: Bundle, encoder: DualEncoder, generator: RagGenerator, split: Split
) -> None:
    """-log p(y|x) of contexts, images and priors of the training, as `Generator.score` has it."""
    questions = split.questions[:2]
    batch = Retrieval(encoder, split, split).batch(questions)
    with torch.no_grad():
        expected = generator.loss(batch, [q.answer for q in questions]).item()
    runtime = Generator(bundle, threads=1)
    contexts = [
        runtime.composer.compose(question, [("", text) for text in found])
        for question, found in zip(batch.questions, batch.passages, strict=True)
    ]
    ids, mask = pad([c.input_ids for found in contexts for c in found], 0)  # type: ignore[union-attr]
    answers = generator.labels([q.answer for q in questions])
    labels = torch.cat([torch.full_like(answers[:, :1], END_ID), answers], dim=1).numpy()
    seen = pixel_values(batch.pixels)[:, None].repeat_interleave(batch.scores.shape[1], dim=0).numpy()
    losses = runtime.score(ids, mask, batch.scores.numpy(), labels, pixel_values=seen)
    assert losses.mean() == pytest.approx(expected, abs=1e-4)


def test_corpus_and_questions(split: Split, tmp_path: Path) -> None:
    write_corpus(split, tmp_path / "corpus.jsonl")
    write_questions(split, tmp_path / "questions.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "corpus.jsonl").read_text().splitlines()]
    assert lines[1] == {"_id": "1", "text": "a blue rectangle", "image": str(split.images[1].absolute())}
    asked = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert len(asked) == 48
    assert (asked[0]["answer"], asked[0]["facts"]) == ("red", "a red rectangle")
