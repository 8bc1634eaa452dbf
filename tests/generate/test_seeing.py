"""Generators that see, run: what is looked at and how often, every strategy, devices, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag_infer import GenerationConfig, Generator
from rag_infer.compose import Seq2SeqContext
from rag_infer.errors import DeviceError, GenerationError
from rag_infer.export import export_bundle
from rag_infer.generate import model, vision
from rag_infer.images.processing import prepare
from rag_infer.session import Session, check_device
from tests.seeing_checkpoints import PLACES, SIZE, write_captioner, write_vision_text
from tests.seq2seq_checkpoints import TINY, write_seq2seq

Makers = Callable[..., Generator]
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 7},
    "beams": {"num_beams": 3, "max_new_tokens": 7, "num_return_sequences": 2},
    "constraints": {"num_beams": 2, "max_new_tokens": 7, "no_repeat_ngram_size": 2, "min_length": 5},
    "sampling": {"do_sample": True, "seed": 5, "max_new_tokens": 6, "num_return_sequences": 3, "top_k": 9},
    "sequence": {"strategy": "rag-sequence", "num_beams": 3, "max_new_tokens": 6},
    "sequence, fast": {"strategy": "rag-sequence-fast", "num_beams": 2, "max_new_tokens": 6},
}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Makers:
    """A generator by kind, in memory or (``device``) with cache and logits where a device would keep them."""

    @cache
    def bundle(kind: str) -> Any:
        folder = tmp_path_factory.mktemp(kind)
        {"captioner": write_captioner, "vision-text": write_vision_text, "bart": _write_bart}[kind](
            folder / "c"
        )
        return export_bundle(folder / "b", generator=folder / "c")

    @cache
    def generator(kind: str, device: str | None = None) -> Generator:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "keeps_on_device", lambda _: device is not None)
            return Generator(bundle(kind), threads=1, device=device or "cpu")

    return generator


def _write_bart(folder: Any) -> Any:
    return write_seq2seq(folder, "bart")


def picture(seed: int, height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def arrays(generator: Generator, seed: int, *, questions: int = 3, n_docs: int = 2) -> dict[str, Any]:
    """Keywords of `generate_from_contexts`, contexts of unequal length."""
    random = np.random.default_rng(seed)
    rows = questions * n_docs
    sees = generator.vision
    assert sees is not None
    found: dict[str, Any] = {"context_input_ids": None, "context_attention_mask": None}
    if sees.reads_text:
        mask = (np.arange(20) < random.integers(1, 20, size=rows)[:, None]).astype(np.int64)
        ids = np.where(mask, random.integers(4, 90, size=(rows, 20)), 1)
        found = {"context_input_ids": ids, "context_attention_mask": mask}
    pixels = random.normal(size=(rows, len(sees.sources), 3, SIZE, SIZE)).astype(np.float32) * 2
    scores = random.normal(size=(questions, n_docs)).astype(np.float32)
    return {**found, "doc_scores": scores, "pixel_values": pixels}


def watch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each run of a vision graph is given."""
    images: list[int] = []
    run = Session.run

    def watched(self: Session, inputs: Any, *others: Any, **settings: Any) -> Any:
        if "pixel_values" in inputs:
            images.append(len(inputs["pixel_values"]))
        return run(self, inputs, *others, **settings)

    monkeypatch.setattr(Session, "run", watched)
    return images


def test_each_image_is_looked_at_once(make: Makers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question's image is in all of its contexts, and a passage's in those of two questions."""
    generator = make("vision-text")
    images = watch(monkeypatch)
    monkeypatch.setattr(vision, "IMAGES_PER_RUN", 3)
    asked, found = [picture(0), picture(1)], [picture(2), picture(3), picture(4)]
    given = [[(asked[q], found[(q + d) % 3].copy()) for d in range(3)] for q in range(2)]
    contexts = [[Seq2SeqContext((7, 8, 9 + d)) for d in range(3)] for _ in range(2)]
    priors = [np.log(np.full(3, 1 / 3, dtype=np.float32))] * 2
    results = {}
    for strategy in ("rag-token", "rag-sequence"):
        config = GenerationConfig(strategy=strategy, num_beams=2, max_new_tokens=5)
        generation = generator.begin(contexts, priors, config, images=given)
        results[strategy] = [r[0].hypothesis.tokens for r in generation.results()]
        assert images == [3, 2]
        images.clear()
    # The same from prepared images.
    part = generator.vision
    assert part is not None
    pixels = np.stack([prepare(i, part.processing) for question in given for row in question for i in row])
    ids = np.array([context.input_ids for question in contexts for context in question], dtype=np.int64)
    prepared: dict[str, Any] = {
        "doc_scores": np.stack(priors),
        "pixel_values": pixels.reshape(6, 2, 3, SIZE, SIZE),
    }
    for strategy, wanted in results.items():
        config = GenerationConfig(strategy=strategy, num_beams=2, max_new_tokens=5)
        output = generator.generate_from_contexts(ids, np.ones_like(ids), **prepared, config=config)
        assert [row[1 : 1 + len(w)].tolist() for row, w in zip(output.sequences, wanted, strict=True)] == [
            list(w) for w in wanted
        ]
        images.clear()
    labels = np.array([[2, 5, 6]] * 2, dtype=np.int64)
    generator.score(ids, np.ones_like(ids), labels=labels, **prepared)
    assert images == [3, 2]


def cuda_reason() -> str | None:
    """Why CUDA cannot be used, or None."""
    try:
        check_device("cuda")
    except DeviceError as error:
        return str(error)
    return None


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("kind", ["captioner", "vision-text"])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_strategy_in_memory_and_on_a_device(make: Makers, kind: str, name: str, device: str) -> None:
    if device == "cuda" and (reason := cuda_reason()):
        pytest.skip(reason)
    here, there = make(kind), make(kind, device=device)
    given, config = arrays(here, 1), GenerationConfig(**SETTINGS[name])
    wanted = here.generate_from_contexts(**given, config=config)
    found = there.generate_from_contexts(**given, config=config)
    np.testing.assert_array_equal(found.sequences, wanted.sequences)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    np.testing.assert_allclose(found.doc_posterior, wanted.doc_posterior, atol=1e-4)
    assert np.isfinite(wanted.scores).all()
    alone = here.generate_from_contexts(**_first_question(given), config=config)
    count = config.num_return_sequences
    width = alone.sequences.shape[1]
    np.testing.assert_array_equal(alone.sequences, wanted.sequences[:count, :width])


def _first_question(given: dict[str, Any]) -> dict[str, Any]:
    n_docs = given["doc_scores"].shape[1]
    return {name: x if x is None else x[: 1 if name == "doc_scores" else n_docs] for name, x in given.items()}


def bad_pixels() -> dict[str, tuple[Any, type[Exception], str]]:
    """Name: (pixel_values in place of good ones of 6 contexts with 2 images; the error; its message)."""
    good = np.zeros((6, 2, 3, SIZE, SIZE), dtype=np.float32)
    hole = good.copy()
    hole[3, 1, 0, 0, 0] = np.nan
    wanted = rf"\[6, 2, 3, {SIZE}, {SIZE}\]"
    return {
        "missing": (None, ValueError, "sees: give pixel_values, the question's and the passage's image"),
        "float64": (good.astype(float), TypeError, "pixel_values must be float32, got float64"),
        "a list": (good.tolist(), TypeError, "numpy array, got list"),
        "rows": (good[:5], ValueError, rf"{wanted}, got \[5, 2"),
        "images": (good[:, :1], ValueError, rf"{wanted}, got \[6, 1"),
        "size": (good[..., 1:], ValueError, rf"{wanted}, got .*{SIZE - 1}\]"),
        "axes": (good[:, 0], ValueError, rf"{wanted}, got \[6, 3"),
        "NaN": (hole, ValueError, "pixel_values must be numbers, got NaN"),
    }


@pytest.mark.parametrize("name", bad_pixels())
def test_bad_pixels(make: Makers, name: str) -> None:
    generator = make("vision-text")
    pixels, error, message = bad_pixels()[name]
    given = {**arrays(generator, 1), "pixel_values": pixels}
    with pytest.raises(error, match=message):
        generator.generate_from_contexts(**given)
    with pytest.raises(error, match=message):
        generator.score(**given, labels=np.full((3, 4), 5, dtype=np.int64))


def bad_images() -> dict[str, tuple[Any, type[Exception], str]]:
    """Name: (images in place of good ones of one question with two passages; the error; its message)."""
    good = (picture(0), picture(1))
    return {
        "missing": (None, ValueError, "sees: give images"),
        "questions": ([], ValueError, r"\[\] passages of each question, expected \[2\]"),
        "passages": ([[good]], ValueError, r"\[1\] passages of each question, expected \[2\]"),
        "sources": (
            [[good, good[:1]]],
            ValueError,
            "context 1 has 1 images, expected 2: of question, passage",
        ),
        "dtype": (
            [[good, (good[0], good[1] / 255)]],
            TypeError,
            "the passage's image of context 1 must be uint8, got float64",
        ),
        "grey": (
            [[(good[0][..., 0], good[1]), good]],
            ValueError,
            r"the question's image of context 0 .*\[any, any, 3\], got \[20, 30\]",
        ),
        "no pixels": ([[good, (good[0][:0], good[1])]], ValueError, "has no pixels"),
    }


@pytest.mark.parametrize("name", bad_images())
def test_bad_images(make: Makers, name: str) -> None:
    images, error, message = bad_images()[name]
    contexts, priors = [[Seq2SeqContext((7, 8))] * 2], [np.log(np.full(2, 0.5, dtype=np.float32))]
    with pytest.raises(error, match=message):
        make("vision-text").begin(contexts, priors, GenerationConfig(), images=images)


def test_a_generator_of_text_is_given_no_images(make: Makers) -> None:
    generator = make("bart")
    assert generator.vision is None
    ids = np.full((2, 3), 7, dtype=np.int64)
    scores, pixels = np.zeros((1, 2), np.float32), np.zeros((2, 1, 3, SIZE, SIZE), np.float32)
    with pytest.raises(ValueError, match="reads text alone: pixel_values cannot be given"):
        generator.generate_from_contexts(ids, np.ones_like(ids), scores, pixel_values=pixels)
    contexts, priors = [[Seq2SeqContext((7, 8))]], [np.zeros(1, dtype=np.float32)]
    with pytest.raises(ValueError, match="reads text alone: images cannot be given"):
        generator.begin(contexts, priors, GenerationConfig(), images=[[(picture(0),)]])
    with pytest.raises(ValueError, match="give context_input_ids"):
        generator.generate_from_contexts(None, None, scores)


def test_a_captioner_is_given_no_text_and_an_image_in_each_context(make: Makers) -> None:
    generator = make("captioner")
    given = arrays(generator, 1)
    ids = np.full((6, 3), 7, dtype=np.int64)
    text = {"context_input_ids": ids, "context_attention_mask": np.ones_like(ids)}
    with pytest.raises(ValueError, match="reads images and no text: give None"):
        generator.generate_from_contexts(**{**given, **text})
    contexts, priors = [[Seq2SeqContext((7, 8))]], [np.zeros(1, dtype=np.float32)]
    with pytest.raises(ValueError, match="context 0 has no image, and this generator reads nothing else"):
        generator.begin(contexts, priors, GenerationConfig(), images=[[(None,)]])
    # What a composer made of the question is not read.
    found = [
        generator.begin(
            [[Seq2SeqContext(ids)]], priors, GenerationConfig(), images=[[(picture(0),)]]
        ).results()
        for ids in ((), (7, 8), (9,) * 300)
    ]
    assert len({tuple(result[0][0].hypothesis.tokens) for result in found}) == 1


def test_images_take_positions_from_text(make: Makers) -> None:
    """A context of as many tokens as are left is read, one more is refused."""
    generator = make("vision-text")
    given = arrays(generator, 1, questions=1)
    room = TINY["max_position_embeddings"] - 2 * PLACES["vit"]
    for tokens in (room, room + 1):
        ids = np.full((2, tokens), 7, dtype=np.int64)
        given |= {"context_input_ids": ids, "context_attention_mask": np.ones_like(ids)}
        if tokens == room:
            assert generator.generate_from_contexts(**given).sequences.shape[0] == 1
    message = f"{room + 1} tokens and 10 places of images is above the model's 64 positions"
    with pytest.raises(GenerationError, match=message):
        generator.generate_from_contexts(**given)
