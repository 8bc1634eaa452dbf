"""Cache and logits that stay on the device, against those in memory.

The device is the CPU, where ONNX Runtime binds inputs and outputs as it does elsewhere, and CUDA where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_infer import GenerationConfig, Generator, marginalise
from rag_infer.bundle import Bundle
from rag_infer.errors import DeviceError, GenerationError
from rag_infer.export import export_bundle
from rag_infer.export.device_graphs import HEAD
from rag_infer.generate import model
from rag_infer.generate.device_cache import DeviceCache
from rag_infer.generate.device_head import GraphHead
from rag_infer.session import Cancellation, Session, check_device
from tests.generate.conftest import PROMPT, TinyRag, arrays, make_checkpoint, random_contexts
from tests.seq2seq_checkpoints import write_seq2seq

KINDS = ["llama", "llama fp16", "bart", "bart fp16", "t5"]
Twins = Callable[[str], tuple[Generator, Generator]]


def cuda_reason() -> str | None:
    """Why CUDA cannot be used, or None."""
    try:
        check_device("cuda")
    except DeviceError as error:
        return str(error)
    return None


def some_contexts(seed: int, *, questions: int, num_docs: int) -> list[list[list[int]]]:
    """Contexts of ordinary tokens that every kind has."""
    drawn = random_contexts(seed, questions=questions, num_docs=num_docs)
    return [[[5 + t % 90 for t in context] for context in question] for question in drawn]


@pytest.fixture(scope="module", params=["cpu", "cuda"])
def twins(request: pytest.FixtureRequest, tiny: TinyRag, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """By kind of generator: (one with all in memory, one that keeps all on the device)."""
    device = str(request.param)
    if device == "cuda" and (reason := cuda_reason()):
        pytest.skip(reason)
    made: dict[str, tuple[Generator, Generator]] = {}

    def make(kind: str) -> tuple[Generator, Generator]:
        if kind not in made:
            folder = tiny.folder
            if kind != "llama":
                folder = tmp_path_factory.mktemp(kind.replace(" ", "-"))
                family, _, precision = kind.partition(" ")
                wanted: dict[str, Any] = {"precision": precision or "fp32"}
                if family == "llama":
                    make_checkpoint(folder / "checkpoint")
                    wanted["prompt"] = PROMPT
                else:
                    write_seq2seq(folder / "checkpoint", family, seed=3)
                folder = export_bundle(folder / "bundle", generator=folder / "checkpoint", **wanted).folder
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(model, "keeps_on_device", lambda _: True)
                there = Generator.from_pretrained(folder, device=device, threads=1)
            made[kind] = (Generator.from_pretrained(folder, threads=1), there)
        return made[kind]

    return make


SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 9},
    "beams": {"num_beams": 4, "max_new_tokens": 9, "num_return_sequences": 3},
    "long": {"num_beams": 2, "max_new_tokens": 40, "min_length": 40},
    "few constraints": {"num_beams": 3, "max_new_tokens": 8, "min_length": 5, "bad_words_ids": [[7], [8, 9]]},
    "many constraints": {
        "num_beams": 2,
        "max_new_tokens": 8,
        "no_repeat_ngram_size": 2,
        "repetition_penalty": 1.3,
    },
    "sampling": {"do_sample": True, "seed": 5, "max_new_tokens": 7, "num_return_sequences": 3, "top_k": 9},
    "sequence": {"strategy": "rag-sequence", "num_beams": 3, "max_new_tokens": 7},
    "sequence, greedy": {"strategy": "rag-sequence-fast", "max_new_tokens": 7, "repetition_penalty": 1.2},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_sequences(twins: Twins, kind: str, name: str) -> None:
    """Three questions, which end at different steps: rows leave the cache, and slots are added to it."""
    here, there = twins(kind)
    config = GenerationConfig(**SETTINGS[name])
    scores = np.random.default_rng(4).normal(scale=2, size=(3, 3)).astype(np.float32)
    given_arrays = arrays(some_contexts(11, questions=3, num_docs=3), scores.tolist())
    wanted = here.generate_from_contexts(*given_arrays, config=config)
    if there.device != "cpu" and "fp16" in kind:
        # A GPU rounds what a CPU computes in float32: near ties turn, the probabilities of the same answers do not.
        labels = wanted.sequences[:: len(wanted.sequences) // 3]
        losses = [g.score(*given_arrays, labels) for g in (here, there)]
        np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
        return
    found = there.generate_from_contexts(*given_arrays, config=config)
    np.testing.assert_array_equal(found.sequences, wanted.sequences)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=2e-4)
    np.testing.assert_allclose(found.doc_posterior, wanted.doc_posterior, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_cache_comes_back(twins: Twins, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading the contexts and the last token only the best tokens are fetched."""
    _, there = twins(kind)
    fetched: list[str] = []
    run = Session.run_on_device

    def watched(self: Session, inputs: Any, **settings: Any) -> Any:
        fetched.extend(settings.get("fetched", ()))
        return run(self, inputs, **settings)

    def forbidden(*_: Any) -> None:
        raise AssertionError("the cache went through the host")

    monkeypatch.setattr(Session, "run_on_device", watched)
    monkeypatch.setattr(DeviceCache, "reserve", forbidden)
    given_arrays = arrays(some_contexts(2, questions=2, num_docs=2), [[1.0, 0.0], [0.5, 0.5]])
    there.generate_from_contexts(*given_arrays, config=GenerationConfig(num_beams=2, max_new_tokens=6))
    assert set(fetched) == {"top_scores", "top_tokens", "top_by_doc"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_writes_into_the_cache_that_is_there(twins: Twins, kind: str) -> None:
    _, there = twins(kind)
    state, _, _ = there._model.start((), [[[20, 21], [22]]], [2], reserve=8, cancellation=None)
    zeros = np.zeros((2, 1), dtype=np.int64)
    places = []
    for _ in range(3):
        there._model.decoder.step(state, zeros, zeros + 30)
        cache = state.on_device if kind.startswith("llama") else state.cache
        places.append({name: value.data_ptr() for name, value in cache._arrays.items()})
    assert places[0] == places[1] == places[2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_can_be_cancelled(twins: Twins, kind: str) -> None:
    _, there = twins(kind)
    ids, mask, _ = arrays(some_contexts(2, questions=1, num_docs=2), [[1.0, 0.0]])
    rows = [row[m > 0].tolist() for row, m in zip(ids, mask, strict=True)]
    state, _, _ = there._model.start((), [rows], [2], reserve=4, cancellation=None)
    cancellation = Cancellation()
    cancellation.cancel()
    zeros = np.zeros((2, 1), dtype=np.int64)
    with pytest.raises(GenerationError, match="cancelled"):
        there._model.decoder.step(state, zeros, zeros + 5, cancellation=cancellation)


def test_questions_of_unequal_numbers_of_passages(twins: Twins) -> None:
    """One of them ends first: rows of others move up in the cache."""
    contexts = [some_contexts(seed, questions=1, num_docs=n)[0] for seed, n in ((1, 3), (2, 1), (3, 2))]
    priors = [marginalise.log_priors(np.arange(len(c), dtype=np.float32)) for c in contexts]
    config = GenerationConfig(num_beams=2, max_new_tokens=12)
    found = []
    for generator in twins("llama"):
        rows = [list(row) for question in contexts for row in question]
        generation = generator._begin((), [rows], priors, config, None)
        found.append([[f.hypothesis.tokens for f in results] for results in generation.results()])
    assert found[0] == found[1]
    assert len({len(results[0]) for results in found[0]}) > 1, "all ended together"


@pytest.mark.parametrize("kind", ["llama", "bart"])
def test_threads_share_a_generator(twins: Twins, kind: str) -> None:
    here, there = twins(kind)
    config = GenerationConfig(num_beams=2, max_new_tokens=8)
    asked = [arrays(some_contexts(seed, questions=1, num_docs=2), [[1.0, 0.0]]) for seed in range(6)]
    wanted = [here.generate_from_contexts(*a, config=config).sequences.tolist() for a in asked]
    with ThreadPoolExecutor(max_workers=3) as pool:
        found = list(
            pool.map(lambda a: there.generate_from_contexts(*a, config=config).sequences.tolist(), asked)
        )
    assert found == wanted


@pytest.fixture(scope="module")
def head(tiny: TinyRag) -> Session:
    """The session of ``head.onnx``."""
    part = Bundle.load(tiny.folder).manifest.generator
    assert part is not None
    assert part.head_graph == HEAD
    return Session(Bundle.load(tiny.folder).file(part, HEAD), threads=1)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 30), beams=st.integers(1, 4), spread=st.floats(0.1, 30))
@settings(deadline=None, max_examples=60)
def test_the_head_is_the_kernel(head: Session, seed: int, k: int, beams: int, spread: float) -> None:
    """Questions of unequal numbers of passages, tokens that some or all passages rule out."""
    random = np.random.default_rng(seed)
    counts = [3, 1, 2]
    logits = (random.normal(size=(sum(counts), beams, 23)) * spread).astype(np.float32)
    logits[random.random(logits.shape) < 0.1] = -np.inf
    logits[:, :, 0] = 0  # each row has a token that is possible
    logits[:, :, 5] = -np.inf
    priors = [marginalise.log_priors(random.normal(size=n).astype(np.float32)) for n in counts]
    priors[0][2] = -np.inf
    start = 0
    for marginals, prior in zip(
        GraphHead(head, 23).questions(logits, priors, [beams] * 3), priors, strict=True
    ):
        rows = logits[start : start + len(prior)]
        start += len(prior)
        scores, tokens = marginals.top(min(k, 23))
        wanted_scores, wanted_tokens = marginalise.top_tokens(rows, prior, min(k, 23))
        np.testing.assert_allclose(scores, wanted_scores, atol=1e-4, rtol=1e-5)
        apart = np.ones_like(scores, dtype=bool)  # where rounding cannot change the order
        steps = -np.diff(np.maximum(wanted_scores, -1e9), axis=1)
        apart[:, 1:] &= steps > 1e-3
        apart[:, :-1] &= steps > 1e-3
        apart[:, -1] = False  # the next one is not known
        np.testing.assert_array_equal(tokens[apart], wanted_tokens[apart])
        np.testing.assert_allclose(
            marginals.scores(), marginalise.log_probs(rows, prior), atol=1e-4, rtol=1e-5
        )
        asked = random.integers(0, 23, size=(beams, 2))
        for chosen in (asked, np.maximum(tokens[:, :1], 0)):
            found, wanted = marginals.of(chosen), marginalise.token_posterior(rows, prior, chosen)
            np.testing.assert_allclose(found[0], wanted[0], atol=1e-4, rtol=1e-5)
            np.testing.assert_allclose(found[1], wanted[1], atol=1e-4)
        np.testing.assert_array_equal(marginals.logits(), rows[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers(head: Session, bad: float) -> None:
    """They are an error, as in memory."""
    logits = np.random.default_rng(0).normal(size=(3, 1, 23)).astype(np.float32)
    logits[0, 0, 3] = bad
    priors = [marginalise.log_priors(np.zeros(n, dtype=np.float32)) for n in (2, 1)]
    with pytest.raises(GenerationError, match="NaN or plus infinity"):
        GraphHead(head, 23).questions(logits, priors, [1, 1])[0].top(2)


def test_a_passage_that_rules_everything_out(head: Session) -> None:
    logits = np.random.default_rng(0).normal(size=(2, 1, 23)).astype(np.float32)
    logits[0] = -np.inf
    prior = marginalise.log_priors(np.zeros(2, dtype=np.float32))
    found = GraphHead(head, 23).questions(logits, [prior], [1])[0].top(4)
    wanted = marginalise.top_tokens(logits, prior, 4)
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-5)
    np.testing.assert_array_equal(found[1], wanted[1])


def test_int8_is_refused_on_a_gpu(tmp_path: Path) -> None:
    write_seq2seq(tmp_path / "checkpoint", "bart", seed=3)
    bundle = export_bundle(tmp_path / "bundle", generator=tmp_path / "checkpoint", precision="int8").folder
    with pytest.raises(DeviceError, match=r"is int8, whose products only the CPU has: .* --precision fp16"):
        Generator.from_pretrained(bundle, device="cuda")


def test_a_bundle_without_these_graphs_still_runs(tiny: TinyRag, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles exported before there were any."""
    monkeypatch.setattr(model, "keeps_on_device", lambda _: True)
    bundle = Bundle.load(tiny.folder)
    part = bundle.manifest.generator
    object.__setattr__(part, "head_graph", None)
    contexts = arrays(some_contexts(5, questions=1, num_docs=2), [[1.0, 0.0]])
    config = GenerationConfig(max_new_tokens=5)
    found = Generator(bundle, threads=1).generate_from_contexts(*contexts, config=config)
    wanted = tiny.generator.generate_from_contexts(*contexts, config=config)
    np.testing.assert_array_equal(found.sequences, wanted.sequences)


def test_files(tiny: TinyRag) -> None:
    """They hold no weights."""
    part = Bundle.load(tiny.folder).manifest.generator
    assert part is not None
    for name in (part.append_graph, part.keep_graph, part.head_graph):
        assert name is not None
        assert 0 < Path(tiny.folder, part.path, name).stat().st_size < 50_000
