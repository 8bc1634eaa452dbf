"""Questions and passages with images, all the way to the answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag_infer import RagEngine
from rag_infer.errors import GenerationError, ImageError, KnowledgeBaseError
from rag_infer.images import read_image
from rag_infer.images.processing import prepare
from rag_infer.knowledge import KnowledgeBase, SearchConfig
from rag_infer.query import Query
from tests.knowledge.seeing import picture, picture_file
from tests.seeing_bundles import KINDS, passages, write_bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write_bundle(tmp_path_factory.mktemp("made"), kind) for kind in KINDS}


@pytest.fixture
def engine(bundles: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RagEngine]:
    kind = getattr(request, "param", "text and images")
    chosen = passages()
    with KnowledgeBase.create(tmp_path / "kb", bundle=bundles[kind], threads=1) as kb:
        kb.upsert(chosen)
    with RagEngine.from_pretrained(bundles[kind], knowledge_base=tmp_path / "kb", threads=1) as made:
        yield made


QUESTIONS = [
    Query("a b"),
    Query(image=picture("red", 20)),
    Query("c d", picture("green", 21)),
    Query("c d", picture("blue", 22)),
]


def test_texts_and_images_are_answered_alike(engine: RagEngine) -> None:
    assert engine.knowledge_base.settings.shared_space
    answers = engine.generate(QUESTIONS, max_new_tokens=6, num_beams=2)
    for query, answer in zip(QUESTIONS, answers, strict=True):
        alone = engine.generate(query, max_new_tokens=6, num_beams=2)
        assert [t.text for t in alone.tokens] == [t.text for t in answer.tokens]
        assert abs(alone.score - answer.score) < 1e-4
        assert (answer.question, answer.question_image) == (query.text, query.image)
        assert len(answer.passages) == 3
        assert abs(sum(p.prior for p in answer.passages) - 1) < 1e-5
        assert abs(sum(p.posterior for p in answer.passages) - 1) < 1e-5
        json.dumps(answer.to_dict())
        assert [p.id for p in answer.passages] == [p.id for p in engine.search(query, k=3)]
    assert answers[2].score != answers[3].score, "the question's image counts"


def test_a_generator_gets_the_images_in_its_order(engine: RagEngine) -> None:
    """The posterior of every token is that of the generator given the same contexts and images by hand."""
    vision, composer = engine.generator.vision, engine.generator.composer
    assert vision is not None
    assert vision.sources == ("question", "passage")
    engine.knowledge_base.delete([p.id for p in passages() if p.image is None or not p.text])
    for query in QUESTIONS[2:]:
        answer = engine.generate(query, max_new_tokens=5, num_beams=1)
        rows = [
            list(context[0])
            for context in composer.compose(query.text, [(p.title, p.text) for p in answer.passages])
        ]
        width = max(map(len, rows))
        ids = np.array([row + [1] * (width - len(row)) for row in rows], dtype=np.int64)
        mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], dtype=np.int64)
        seen = [[query.image, p.image] for p in answer.passages]
        pixels = np.stack([[prepare(i.pixels(), vision.processing) for i in row] for row in seen])
        scores = np.float32([[5.0 * p.score for p in answer.passages]])
        config = engine.generator.defaults.updated({"max_new_tokens": 5, "num_beams": 1})
        output = engine.generator.generate_from_contexts(
            ids, mask, scores, config=config, pixel_values=pixels
        )
        posteriors = np.stack([t.posterior for t in answer.tokens])
        np.testing.assert_allclose(output.doc_posterior[0][1 : len(posteriors) + 1], posteriors, atol=1e-5)


@pytest.mark.parametrize("engine", ["captions"], indirect=True)
def test_a_captioner_describes_what_is_like_the_question(engine: RagEngine) -> None:
    answer = engine.generate(Query(image=picture("red", 20)), max_new_tokens=5)
    assert len(answer.passages) == 3
    assert all(p.image is not None for p in answer.passages), "texts alone it cannot read"
    assert answer.tokens
    whole = engine.generate(Query(image=picture("red", 20)), strategy="rag-sequence", max_new_tokens=5)
    assert whole.tokens
    for question in ("a b", "h i", "e f"):
        seen = [p.id for p in engine.search(question, k=3) if p.image is not None]
        answer = engine.generate(question, max_new_tokens=2)
        assert [p.id for p in answer.passages][: len(seen)] == seen
        assert all(p.image is not None for p in answer.passages)
        assert len(answer.passages) == 3
    nearest = [p for question in ("a b", "h i", "e f") for p in engine.search(question, k=3)]
    assert any(p.image is None for p in nearest), "else nothing had to be left out"


def test_a_captioner_of_questions_needs_their_images(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, "captions of questions")
    with KnowledgeBase.create(tmp_path / "kb", bundle=bundle, threads=1) as kb:
        kb.upsert(passages())
    with RagEngine.from_pretrained(bundle, knowledge_base=tmp_path / "kb", threads=1) as engine:
        red, blue = engine.generate([Query(image=picture(c)) for c in ("red", "blue")], max_new_tokens=4)
        assert red.tokens
        assert red.score != blue.score
        # Whatever passages are retrieved, it describes the same image: each has the same say as before.
        np.testing.assert_allclose(red.tokens[-1].posterior, [p.prior for p in red.passages], atol=1e-5)
        with pytest.raises(GenerationError, match="describes the question's image, and a question has none"):
            engine.generate([Query(image=picture("red")), "a b"])


def test_a_text_beside_an_image_is_the_generators(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, "images")
    with KnowledgeBase.create(tmp_path / "kb", bundle=bundle, threads=1) as kb:
        kb.upsert([p for p in passages() if p.image is not None])
    with RagEngine.from_pretrained(bundle, knowledge_base=tmp_path / "kb", threads=1) as engine:
        alone, asked = Query(image=picture("red", 20)), Query("a b", picture("red", 20))
        assert engine.search(asked, k=3) == engine.search(alone, k=3)
        answers = engine.generate([alone, asked], max_new_tokens=4)
        assert answers[0].score != answers[1].score, "the generator reads the text"
        with pytest.raises(KnowledgeBaseError, match="a question without an image, and no encoder for texts"):
            engine.generate("a b")


def test_a_search_by_words_does_not_look_at_images(engine: RagEngine) -> None:
    by_words, question = SearchConfig(mode="lexical"), Query("a b", picture("red", 20))
    with pytest.raises(ValueError, match="does not look at images"):
        engine.search(question, search=by_words)
    answer = engine.generate(question, search=by_words, max_new_tokens=4)
    assert answer.score != engine.generate("a b", search=by_words, max_new_tokens=4).score, (
        "the generator sees it"
    )


@pytest.mark.parametrize("engine", ["text"], indirect=True)
def test_an_image_that_nobody_looks_at_is_refused(engine: RagEngine) -> None:
    with pytest.raises(ValueError, match="does not look at images"):
        engine.generate(Query("a b", picture("red", 20)), search=SearchConfig(mode="lexical"))


@pytest.mark.parametrize("engine", ["text"], indirect=True)
def test_a_generator_of_text_reads_the_captions(engine: RagEngine) -> None:
    answer = engine.generate(Query("a b", picture("red", 20)), max_new_tokens=5)
    assert answer.tokens
    events = list(engine.stream(Query(image=picture("red", 20)), max_new_tokens=3))
    assert events


def test_an_image_is_a_path_bytes_an_array_or_a_mapping(engine: RagEngine, tmp_path: Path) -> None:
    path = picture_file(tmp_path, "red", 20)
    expected = [p.id for p in engine.search(Query(image=path), k=5)]
    for image in (path, path.read_bytes(), read_image(path), {"image": str(path)}):
        assert [p.id for p in engine.search(image, k=5)] == expected
    assert [p.id for p in engine.knowledge_base.search([path, "a"], k=5)[0]] == expected
    with pytest.raises(ImageError, match="is an address"):
        engine.search({"image": "https://example.org/a.png"})
    with pytest.raises(TypeError, match="'text', 'image' or both"):
        engine.search({"picture": str(path)})


def test_a_string_is_always_text(engine: RagEngine, tmp_path: Path) -> None:
    path = picture_file(tmp_path, "red", 20)
    as_text, as_image = engine.search(str(path), k=3), engine.search(path, k=3)
    assert [p.score for p in as_text] != [p.score for p in as_image]


def test_an_image_and_a_knowledge_base_of_texts(tmp_path: Path, demo_bundle: Path) -> None:
    with KnowledgeBase.create(tmp_path / "kb", bundle=demo_bundle, threads=1) as kb:
        kb.upsert([p for p in passages() if p.image is None])
        with pytest.raises(
            KnowledgeBaseError, match="there is no image encoder; export a bundle with --image"
        ):
            kb.search(Query(image=picture("red")))
