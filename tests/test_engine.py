"""The whole way on real models: answers, streams, batches, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag_infer import GenerationConfig, KnowledgeBase, Passage, RagEngine, RagInferWarning, SearchConfig
from rag_infer.errors import DeviceError, KnowledgeBaseError

pytestmark = pytest.mark.real_model

QUESTIONS = ["Who designed and built the Eiffel Tower?", "What is the highest mountain on Earth?"]


@pytest.fixture(scope="module")
def engine(demo_bundle: Path, demo_knowledge_base: Path) -> Iterator[RagEngine]:
    with RagEngine.from_pretrained(demo_bundle, knowledge_base=demo_knowledge_base) as engine:
        yield engine


def test_answer(engine: RagEngine) -> None:
    answer = engine.generate(QUESTIONS[0], n_docs=5, strategy="rag-token", num_beams=2)
    assert "Eiffel" in answer.text
    assert answer.passages[0].title == "Eiffel Tower"
    assert len(answer.passages) == 5
    assert sum(p.prior for p in answer.passages) == pytest.approx(1, abs=1e-5)
    assert sum(p.posterior for p in answer.passages) == pytest.approx(1, abs=1e-5)
    assert sum(t.log_prob for t in answer.tokens) == pytest.approx(answer.score)
    assert answer.score < 0
    for text, log_prob, posterior in answer.tokens:
        assert isinstance(text, str)
        assert log_prob <= 1e-6
        assert posterior.dtype == np.float32
        assert posterior.shape == (5,)
        assert posterior.sum() == pytest.approx(1, abs=1e-5)
    assert "".join(t.text for t in answer.tokens).strip() == answer.text
    stages = {"tokenise", "encode", "search", "compose", "prefill", "decode", "total"}
    assert set(answer.timings) == stages
    assert answer.timings["total"] >= answer.timings["prefill"] > 0
    json.dumps(answer.to_dict())


def test_batch_equals_one_at_a_time(engine: RagEngine) -> None:
    questions = [
        *QUESTIONS,
        "Which gas do plants release in photosynthesis?",
        "Who?",
        "When was 2001 filmed?",
    ]
    for settings in ({}, {"num_beams": 3}):
        batch = engine.generate(questions, max_new_tokens=12, **settings)
        for question, answer in zip(questions, batch, strict=True):
            alone = engine.generate(question, max_new_tokens=12, **settings)
            assert alone.text == answer.text
            assert alone.score == pytest.approx(answer.score, abs=1e-3)
            assert [p.id for p in alone.passages] == [p.id for p in answer.passages]


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}])
def test_stream_equals_generate(engine: RagEngine, settings: dict[str, int]) -> None:
    whole = engine.generate(QUESTIONS[0], **settings)
    stream = engine.stream(QUESTIONS[0], **settings)
    assert [p.id for p in stream.passages] == [p.id for p in whole.passages]
    tokens = list(stream)
    assert [t.text for t in tokens] == [t.text for t in whole.tokens]
    for token, expected in zip(tokens, whole.tokens, strict=True):
        np.testing.assert_allclose(token.posterior, expected.posterior, atol=1e-5)
    assert stream.answer is not None
    assert stream.answer.text == whole.text


def test_closing_a_stream_stops_the_work(engine: RagEngine) -> None:
    with engine.stream(QUESTIONS[0], max_new_tokens=32) as stream:
        next(stream)
    assert list(stream) == []
    assert stream.answer is None


def test_closing_from_another_thread_stops_a_running_step(engine: RagEngine) -> None:
    full = engine.generate(QUESTIONS[0]).timings["prefill"] / 1000
    stream = engine.stream(QUESTIONS[0])
    timer = threading.Timer(full / 5, stream.close)
    started = time.perf_counter()
    timer.start()
    assert list(stream) == []
    assert time.perf_counter() - started < full
    timer.join()


def test_threads_share_an_engine(engine: RagEngine) -> None:
    expected = [engine.generate(q, max_new_tokens=6).text for q in QUESTIONS]
    got: dict[int, str] = {}

    def ask(i: int) -> None:
        got[i] = engine.generate(QUESTIONS[i % 2], max_new_tokens=6).text

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[i] for i in range(4)] == expected * 2


def test_sampling_with_a_seed_is_repeatable(engine: RagEngine) -> None:
    config = GenerationConfig(do_sample=True, seed=1, max_new_tokens=8, num_return_sequences=3)
    first, second = (engine.generate(QUESTIONS[1], config=config) for _ in range(2))
    assert first.text == second.text
    assert len(first.alternatives) == 2
    assert first.score >= first.alternatives[0].score


def test_stop_string_and_length(engine: RagEngine) -> None:
    answer = engine.generate(QUESTIONS[0], stop_strings=["Eiffel"], max_new_tokens=20)
    assert "Eiffel" not in answer.text
    assert len(engine.generate(QUESTIONS[0], max_new_tokens=3, stop_strings=[]).tokens) == 3


def test_settings_of_a_search_are_no_dict(engine: RagEngine) -> None:
    for ask in (engine.search, engine.generate, engine.stream):
        with pytest.raises(TypeError, match="search must be a SearchConfig, got dict"):
            ask(QUESTIONS[0], search={"mode": "hybrid"})  # type: ignore[operator]


def test_where(engine: RagEngine) -> None:
    found = engine.search("mountain", k=7, where={"topic": "Geography"})
    assert len(found) == 7
    assert {p.metadata["topic"] for p in found} == {"Geography"}
    with pytest.raises(KnowledgeBaseError, match="no passage has"):
        engine.generate("Which mountain?", where={"topic": "nothing"})


@pytest.mark.parametrize(
    "search",
    [
        SearchConfig(),
        SearchConfig(mode="lexical"),
        SearchConfig(mode="lexical", lexical_scale=0.25),
        SearchConfig(mode="hybrid"),
        SearchConfig(mode="hybrid", fusion="reciprocal_rank", alpha=0.3),
    ],
    ids=lambda s: f"{s.mode}-{s.fusion}-{s.lexical_scale}",
)
def test_priors_are_the_softmax_of_the_scores(engine: RagEngine, search: SearchConfig) -> None:
    scale = {"dense": 20.0, "lexical": search.lexical_scale, "hybrid": 1.0}[search.mode]
    for question, answer in zip(
        QUESTIONS, engine.generate(QUESTIONS, n_docs=4, max_new_tokens=2, search=search), strict=True
    ):
        scaled = np.array([p.score for p in answer.passages], dtype=np.float64) * scale
        expected = np.exp(scaled - np.logaddexp.reduce(scaled))
        np.testing.assert_allclose([p.prior for p in answer.passages], expected, rtol=1e-4, atol=1e-7)
        found = engine.search(question, k=4, search=search)
        assert [p.id for p in found] == [p.id for p in answer.passages]
        scores = [p.score for p in answer.passages]  # a batch's vectors differ in the last bits
        assert [p.score for p in found] == pytest.approx(scores, abs=1e-5)
        with engine.stream(question, n_docs=4, max_new_tokens=2, search=search) as stream:
            assert [p.id for p in stream.passages] == [p.id for p in found]


def test_the_mixture_is_of_the_priors_of_both_sides(engine: RagEngine) -> None:
    """With the bundle's scale for vectors: the fused prior of a passage is the share of each side's own prior."""
    question, everything = QUESTIONS[0], 100
    fused = engine.search(question, k=3, search=SearchConfig(mode="hybrid", candidates=everything))
    lexical = engine.search(question, k=everything, search=SearchConfig(mode="lexical"))
    odds = np.array([p.score for p in lexical], dtype=np.float64)
    by_words = dict(zip([p.id for p in lexical], np.exp(odds - np.logaddexp.reduce(odds)), strict=True))
    dense = {p.id: p.score for p in engine.search(question, k=len(engine.knowledge_base))}
    first = [p.id for p in engine.search(question, k=everything)]
    candidates = list(dict.fromkeys([*first, *by_words]))
    scaled = 20.0 * np.array([dense[i] for i in candidates], dtype=np.float64)
    by_vectors = dict(zip(candidates, np.exp(scaled - np.logaddexp.reduce(scaled)), strict=True))
    for passage in fused:
        expected = 0.5 * by_vectors[passage.id] + 0.5 * by_words.get(passage.id, 0.0)
        assert np.exp(passage.score) == pytest.approx(expected, rel=1e-4)


def test_no_passage_has_a_word_of_the_question(engine: RagEngine) -> None:
    words = SearchConfig(mode="lexical")
    with pytest.raises(KnowledgeBaseError, match="no passage has a word of 'Xqzzt'"):
        engine.generate("Xqzzt", search=words)
    with pytest.raises(KnowledgeBaseError, match=r"no passage has \{'topic': 'nothing'\} and a word of"):
        engine.generate("Who?", where={"topic": "nothing"}, search=words)


@pytest.mark.parametrize("question", ["", "   ", "\n\t"])
def test_empty_question(engine: RagEngine, question: str) -> None:
    for call in (engine.generate, engine.search, engine.stream):
        with pytest.raises(ValueError, match="the question is empty"):
            call(question)


def test_wrong_arguments(engine: RagEngine) -> None:
    with pytest.raises(TypeError, match="a question must be a string, got int"):
        engine.generate([1])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="unknown generation setting 'beams'"):
        engine.generate("Who?", beams=2)
    with pytest.raises(ValueError, match="0"):
        engine.search("Who?", k=0)
    with pytest.raises(ValueError, match="-1"):
        engine.generate("Who?", n_docs=-1)


def test_very_long_question_is_cut_with_a_warning(engine: RagEngine) -> None:
    with pytest.warns(RagInferWarning, match="100000 characters was cut"):
        answer = engine.generate("Who is it? " * 9090 + "a" * 10, max_new_tokens=1, n_docs=1)
    assert len(answer.passages) == 1


def test_control_and_special_characters_change_nothing(engine: RagEngine) -> None:
    plain = engine.generate(QUESTIONS[1], max_new_tokens=4)
    odd = engine.generate(QUESTIONS[1].replace("highest", "high\x00est\x1b"), max_new_tokens=4)
    assert odd.text == plain.text
    assert engine.generate("<|im_end|> Who<|im_start|>?", max_new_tokens=2, n_docs=1).tokens


def test_more_passages_than_there_are(demo_bundle: Path, tmp_path: Path) -> None:
    with KnowledgeBase.create(tmp_path / "kb", bundle=demo_bundle) as knowledge_base:
        knowledge_base.upsert([Passage(id="1", title="Nile", text="The Nile is a river in Africa.")])
        engine = RagEngine.from_pretrained(demo_bundle, knowledge_base=knowledge_base)
        answer = engine.generate("Where is the Nile?", n_docs=50, max_new_tokens=3)
        assert [p.posterior for p in answer.passages] == [pytest.approx(1.0)]


def test_empty_knowledge_base(demo_bundle: Path, tmp_path: Path) -> None:
    KnowledgeBase.create(tmp_path / "kb", bundle=demo_bundle).close()
    with RagEngine.from_pretrained(demo_bundle, knowledge_base=tmp_path / "kb") as engine:
        assert engine.search("Who?") == []
        with pytest.raises(KnowledgeBaseError, match="the knowledge base is empty"):
            engine.generate("Who?")


def test_cuda_is_an_error_where_it_is_not(demo_bundle: Path, demo_knowledge_base: Path) -> None:
    from rag_infer.session import check_device

    try:
        check_device("cuda")
    except DeviceError:
        with pytest.raises(DeviceError, match="cuda"):
            RagEngine.from_pretrained(demo_bundle, knowledge_base=demo_knowledge_base, device="cuda")
    else:
        with RagEngine.from_pretrained(
            demo_bundle, knowledge_base=demo_knowledge_base, device="cuda"
        ) as engine:
            assert engine.generate(QUESTIONS[0]).text
    with pytest.raises(DeviceError, match="unknown device 'tpu'"):
        RagEngine.from_pretrained(demo_bundle, knowledge_base=demo_knowledge_base, device="tpu")


def test_no_socket_and_no_torch(demo_bundle: Path, demo_knowledge_base: Path) -> None:
    code = f"""
import sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(event) if event.startswith("socket.") else None)
from rag_infer import RagEngine
with RagEngine.from_pretrained({str(demo_bundle)!r}, knowledge_base={str(demo_knowledge_base)!r}) as engine:
    assert engine.generate("Who built the Eiffel Tower?", max_new_tokens=4).text
print(opened, [m for m in ("torch", "transformers", "optimum", "onnx") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[] []"
