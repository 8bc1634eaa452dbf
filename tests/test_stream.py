"""Answers as they grow: a stream gives what `generate` gives, and stops when it is closed."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from rag_infer import KnowledgeBase, Passage, RagEngine
from rag_infer.answer import Answer, Token
from rag_infer.bundle import MANIFEST, Bundle, record_files
from rag_infer.errors import GenerationError
from rag_infer.export import export_bundle
from rag_infer.parts import RetrievalPart
from rag_infer.stream import AnswerStream
from tests.generate.conftest import PROMPT, make_checkpoint
from tests.knowledge.tiny_bundle import WORDS, make_tiny_bundle

QUESTIONS = ["red cat on the mat", "deep blue sea", "a dog runs", "sky", "one two three"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RagEngine]:
    """The small text encoder, a small random Llama, and 8 passages."""
    folder = tmp_path_factory.mktemp("stream")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    make_checkpoint(folder / "checkpoint")
    generator = export_bundle(folder / "generator", generator=folder / "checkpoint", prompt=PROMPT)
    torch.set_num_threads(threads)
    bundle = make_tiny_bundle(folder / "bundle")
    shutil.copytree(folder / "generator" / "generator", bundle / "generator")
    manifest = replace(
        Bundle.load(bundle).manifest,
        generator=generator.manifest.generator,
        retrieval=RetrievalPart(score_scale=0.05, n_docs=3),
        generation={"max_new_tokens": 12},
        files=record_files(bundle),
    )
    (bundle / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    random = np.random.default_rng(1)
    with KnowledgeBase.create(folder / "kb", bundle=bundle) as knowledge_base:
        texts = [" ".join(random.choice(WORDS, size=5 + i)) for i in range(8)]
        knowledge_base.upsert([Passage(id=str(i), title=WORDS[i], text=t) for i, t in enumerate(texts)])
    with RagEngine.from_pretrained(bundle, knowledge_base=folder / "kb", threads=1) as made:
        yield made


def assert_same(tokens: list[Token], expected: Answer) -> None:
    """The same tokens; of their texts, which the model's random bytes make odd, see `test_texts`."""
    for token, wanted in zip(tokens, expected.tokens, strict=True):
        assert token.log_prob == pytest.approx(wanted.log_prob, abs=1e-5)
        assert token.posterior.shape == (len(expected.passages),)
        np.testing.assert_allclose(token.posterior, wanted.posterior, atol=1e-5)
        assert token.posterior.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"n_docs": 1},
        {"n_docs": 8, "max_new_tokens": 30},
        {"num_beams": 3},
        {"num_beams": 4, "early_stopping": True, "num_return_sequences": 2},
        {"do_sample": True, "seed": 5},
        {"do_sample": True, "seed": 5, "num_return_sequences": 3},
    ],
    ids=str,
)
def test_stream_equals_generate(engine: RagEngine, question: str, settings: dict[str, Any]) -> None:
    expected = engine.generate(question, **settings)
    stream = engine.stream(question, **settings)
    assert [p.id for p in stream.passages] == [p.id for p in expected.passages]
    assert stream.answer is None
    tokens = list(stream)
    assert stream.answer is not None
    assert stream.answer.text == expected.text
    assert_same(stream.answer.tokens, expected)
    assert [a.text for a in stream.answer.alternatives] == [a.text for a in expected.alternatives]
    assert_same(tokens, expected)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 5}], ids=str)
def test_texts(engine: RagEngine, settings: dict[str, Any]) -> None:
    for question in QUESTIONS:
        expected = engine.generate(question, max_new_tokens=20, **settings)
        texts = [t.text for t in engine.stream(question, max_new_tokens=20, **settings)]
        assert texts == [t.text for t in expected.tokens]
        assert "".join(texts).strip() == expected.text


def test_a_stop_string_that_lies_across_tokens(engine: RagEngine) -> None:
    tried = 0
    for question in QUESTIONS:
        texts = [t.text for t in engine.generate(question, max_new_tokens=20).tokens]
        for before, after in pairwise(texts):
            if not (before.isascii() and after.isascii() and before.strip() and after.strip()):
                continue
            stop = before[-1] + after[0]
            expected = engine.generate(question, max_new_tokens=20, stop_strings=[stop])
            assert stop not in expected.text
            streamed = [t.text for t in engine.stream(question, max_new_tokens=20, stop_strings=[stop])]
            assert "".join(streamed).strip() == expected.text
            tried += 1
    assert tried, "no two tokens of plain letters follow one another"


def test_greedy_tokens_come_one_by_one(engine: RagEngine) -> None:
    stream = engine.stream(QUESTIONS[0], min_length=6)
    assert isinstance(iter(stream), AnswerStream)
    for _ in range(6):
        next(stream)
        assert stream.answer is None


def test_an_answer_is_made_of_its_tokens(engine: RagEngine) -> None:
    for question in QUESTIONS:
        answer = engine.generate(question, num_beams=3)
        assert "".join(t.text for t in answer.tokens).strip() == answer.text
        assert sum(t.log_prob for t in answer.tokens) == pytest.approx(answer.score)
        shares = np.mean([t.posterior for t in answer.tokens], axis=0)
        np.testing.assert_allclose([p.posterior for p in answer.passages], shares, atol=1e-6)
        scores = np.array([p.score for p in answer.passages], dtype=np.float64) * 0.05
        prior = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose([p.prior for p in answer.passages], prior, atol=1e-6)


def test_closing_early_stops_the_work(engine: RagEngine) -> None:
    expected = engine.generate(QUESTIONS[1])
    stream = engine.stream(QUESTIONS[0], min_length=12)
    next(stream)
    stream.close()
    assert list(stream) == []
    stream.close()
    assert stream.answer is None
    assert_same(list(engine.stream(QUESTIONS[1])), expected)
    assert engine.generate(QUESTIONS[1]).text == expected.text


def test_leaving_a_with_block_stops_the_work(engine: RagEngine) -> None:
    with engine.stream(QUESTIONS[0], min_length=12) as stream:
        next(stream)
    assert list(stream) == []
    with pytest.raises(KeyError), engine.stream(QUESTIONS[0], min_length=12) as stream:
        raise KeyError
    assert list(stream) == []
    with engine.stream(QUESTIONS[0]) as stream:
        tokens = list(stream)
    assert stream.answer is not None
    assert_same(tokens, stream.answer)


def test_closing_before_the_first_token(engine: RagEngine) -> None:
    stream = engine.stream(QUESTIONS[0])
    stream.close()
    assert list(stream) == []
    assert stream.answer is None


def test_closing_from_another_thread(engine: RagEngine) -> None:
    stream = engine.stream(QUESTIONS[0], max_new_tokens=250, min_length=250)
    tokens = [next(stream)]
    closer = threading.Timer(0.02, stream.close)
    closer.start()
    # A running step is stopped with an error; between two steps the stream just ends.
    with contextlib.suppress(GenerationError):
        tokens += stream
    closer.join()
    assert len(tokens) < 250
    assert stream.answer is None


def test_streams_side_by_side(engine: RagEngine) -> None:
    expected = [engine.generate(q) for q in QUESTIONS]
    streams = [engine.stream(q) for q in QUESTIONS]
    tokens: list[list[Token]] = [[] for _ in streams]
    running = set(range(len(streams)))
    while running:
        for i in sorted(running):
            token = next(streams[i], None)
            if token is None:
                running.discard(i)
            else:
                tokens[i].append(token)
    for found, answer in zip(tokens, expected, strict=True):
        assert_same(found, answer)


def test_wrong_arguments_are_refused_at_once(engine: RagEngine) -> None:
    with pytest.raises(ValueError, match="the question is empty"):
        engine.stream(" ")
    with pytest.raises(TypeError, match="unknown generation setting 'beams'"):
        engine.stream("sky", beams=2)
