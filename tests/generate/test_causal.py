"""The decoder-only generator's cache: pieces, padding, beams and growth change no logits."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rag_infer import GenerationConfig
from rag_infer.bundle import Bundle
from rag_infer.compose import CausalContext
from rag_infer.errors import GenerationError
from rag_infer.generate.causal import CausalDecoder
from rag_infer.generate.causal_state import CausalState
from rag_infer.parts import CausalGeneratorPart
from rag_infer.session import Cancellation, Session
from rag_infer.text import SLOT_BUCKET
from tests.generate.conftest import MAX_POSITIONS, TinyRag, arrays, random_contexts
from tests.tiny_llama import VOCAB

LOGIT_TOLERANCE = 1e-4
# On both sides of the bucket of 8, which lengths are padded to.
LENGTHS = [1, 7, 8, 9, 16, 17, 33]


@pytest.fixture
def decoder(tiny: TinyRag) -> CausalDecoder:
    """A decoder that has seen no preamble."""
    bundle = Bundle.load(tiny.folder, check="size")
    part = bundle.manifest.generator
    assert isinstance(part, CausalGeneratorPart)
    return CausalDecoder(Session(bundle.file(part, part.graph), threads=1), part)


@pytest.fixture
def remembering(tiny: TinyRag) -> CausalDecoder:
    """A decoder that keeps what it read of passages, with room for about 40 tokens."""
    bundle = Bundle.load(tiny.folder, check="size")
    part = bundle.manifest.generator
    assert isinstance(part, CausalGeneratorPart)
    token = part.num_layers * 2 * part.num_kv_heads * part.head_dim * 4
    session = Session(bundle.file(part, part.graph), threads=1)
    return CausalDecoder(session, part, cache_bytes=40 * token)


def oracle(tiny: TinyRag, sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """The logits of transformers after the last token of each sequence, run whole and alone: ``[sequences, vocab]``."""
    with torch.no_grad():
        rows = [tiny.model(torch.tensor([list(s)]), use_cache=False).logits[0, -1] for s in sequences]
    return torch.stack(rows).numpy()


def prompts_of(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(4, VOCAB, size=n).tolist() for n in lengths]


def close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, expected, atol=LOGIT_TOLERANCE, rtol=1e-5)


@pytest.mark.parametrize("lengths", [LENGTHS, [9, 13, 16], [1, 1], [40, 3]], ids=str)
def test_padding_and_order_change_no_logits(
    tiny: TinyRag, decoder: CausalDecoder, lengths: list[int]
) -> None:
    prompts = prompts_of(lengths)
    expected = oracle(tiny, prompts)
    close(decoder.prefill((), [prompts], reserve=4)[1][:, 0], expected)
    order = np.random.default_rng(1).permutation(len(prompts))
    shuffled = decoder.prefill((), [[prompts[i] for i in order]], reserve=0)[1][:, 0]
    close(shuffled, expected[order])
    for prompt, logits in zip(prompts, expected, strict=True):
        close(decoder.prefill((), [[prompt]], reserve=1)[1][0], logits[None])


def test_pieces_and_preamble_change_no_logits(tiny: TinyRag, decoder: CausalDecoder) -> None:
    preamble = prompts_of([11], seed=2)[0]
    prompts = prompts_of(LENGTHS[1:], seed=3)
    expected = oracle(tiny, [[*preamble, *p] for p in prompts])
    for cut in (0, 1, 6):  # a cut of 0 leaves the first piece empty
        pieces = [[p[:cut] for p in prompts], [p[cut:] for p in prompts]]
        close(decoder.prefill(preamble, pieces, reserve=1)[1][:, 0], expected)
    uneven = [
        [p[: i % 3 * 3] for i, p in enumerate(prompts)],
        [p[i % 3 * 3 :] for i, p in enumerate(prompts)],
    ]
    first, second = (decoder.prefill(preamble, uneven, reserve=1)[1] for _ in range(2))
    close(first[:, 0], expected)
    np.testing.assert_array_equal(first, second)
    close(decoder.prefill((), [[[*preamble, *p] for p in prompts]], reserve=1)[1][:, 0], expected)
    other = prompts_of([5], seed=4)[0]
    close(
        decoder.prefill(other, [prompts], reserve=1)[1][:, 0], oracle(tiny, [[*other, *p] for p in prompts])
    )


def test_crossing_beams_and_growth(tiny: TinyRag, decoder: CausalDecoder) -> None:
    random = np.random.default_rng(6)
    prompts = prompts_of([13, 4], seed=6)
    state, _ = decoder.prefill((), [prompts], reserve=0)
    capacity = state.keys_values.shape[4]
    beams = [[p] for p in prompts]
    for step in range(40):
        width = int(random.integers(1, 5))
        parents = random.integers(0, len(beams[0]), size=(2, width))
        tokens = random.integers(4, VOCAB, size=(2, width))
        beams = [
            [[*beams[r][parent], int(token)] for parent, token in zip(parents[r], tokens[r], strict=True)]
            for r in range(2)
        ]
        logits = decoder.step(state, parents, tokens)
        if step % 3 == 0 or step == 39:
            close(logits.reshape(-1, VOCAB), oracle(tiny, [*beams[0], *beams[1]]))
    assert state.keys_values.shape[4] > capacity + SLOT_BUCKET, "the cache never grew"


def test_rows_that_leave(tiny: TinyRag, decoder: CausalDecoder) -> None:
    prompts = prompts_of([3, 12, 20], seed=7)
    state, _ = decoder.prefill((), [prompts], reserve=2)
    decoder.step(state, np.zeros((3, 2), dtype=np.int64), np.array([[5, 6], [7, 8], [9, 10]]))
    state.keep_rows([2, 0])
    logits = decoder.step(state, np.array([[1, 0], [1, 1]]), np.array([[11, 12], [13, 14]]))
    expected = [[*prompts[2], 10, 11], [*prompts[2], 9, 12], [*prompts[0], 6, 13], [*prompts[0], 6, 14]]
    close(logits.reshape(-1, VOCAB), oracle(tiny, expected))


@pytest.mark.parametrize("length", [1, 2, 9])
def test_teacher_forcing(tiny: TinyRag, decoder: CausalDecoder, length: int) -> None:
    prompts, answer = prompts_of([5, 18], seed=8), prompts_of([length], seed=9)[0]
    logits = decoder.teacher_force(prompts, answer)
    assert logits.shape == (2, length, VOCAB)
    for row, prompt in zip(logits, prompts, strict=True):
        close(row, oracle(tiny, [[*prompt, *answer[:t]] for t in range(length)]))


def test_up_to_the_last_position(tiny: TinyRag, decoder: CausalDecoder) -> None:
    prompts = prompts_of([MAX_POSITIONS - 1, 3], seed=10)
    close(decoder.prefill((), [prompts], reserve=1)[1][:, 0], oracle(tiny, prompts))
    with pytest.raises(GenerationError, match=f"{MAX_POSITIONS} tokens leaves no room in {MAX_POSITIONS} "):
        decoder.prefill([5, 6], [prompts_of([MAX_POSITIONS - 2, 3])], reserve=1)
    with pytest.raises(GenerationError, match="empty"):
        decoder.prefill([5, 6], [[[7], []]], reserve=1)


def test_long_answers(tiny: TinyRag) -> None:
    """More tokens than the 16 there is room for at first, with beams."""
    contexts = random_contexts(12, questions=1, num_docs=2)
    settings = {"num_beams": 3, "min_length": 60}
    expected = tiny.search(tiny.marginal(contexts[0], [0.2, 0.9]), max_new_tokens=64, **settings)
    config = GenerationConfig(max_new_tokens=64, **settings)
    found = tiny.generator.generate_from_contexts(*arrays(contexts, [[0.2, 0.9]]), config=config)
    assert found.sequences.tolist() == expected.sequences.tolist()


def test_threads_share_a_generator(tiny: TinyRag) -> None:
    config = GenerationConfig(num_beams=3, max_new_tokens=20)
    given = [arrays(random_contexts(s, questions=1, num_docs=3), [[0.1, 0.9, 0.4]]) for s in range(12)]

    def sequences(index: int) -> list[list[int]]:
        return tiny.generator.generate_from_contexts(*given[index], config=config).sequences.tolist()

    alone = [sequences(i) for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(sequences, [*range(12), *range(12)])) == alone * 2


def test_cancellation(tiny: TinyRag) -> None:
    contexts = [[CausalContext((5, 6, 7), (8, 9))]]
    priors = [np.zeros(1, dtype=np.float32)]
    config = GenerationConfig(max_new_tokens=20, min_length=20)
    cancellation = Cancellation()
    generation = tiny.generator.begin(contexts, priors, config, cancellation=cancellation)
    next(iter(generation))
    cancellation.cancel()
    with pytest.raises(GenerationError, match=r"^cancelled$"):
        generation.results()
    with pytest.raises(GenerationError, match=r"^cancelled$"):
        tiny.generator.begin(contexts, priors, config, cancellation=cancellation)
    again = tiny.generator.begin(contexts, priors, config, cancellation=Cancellation()).results()
    assert len(again[0][0].hypothesis.tokens) == 20


def read_lengths(decoder: CausalDecoder, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The lengths of the rows of each piece that is read from now on."""
    read: list[list[int]] = []
    real = decoder._read

    def spy(state: CausalState, piece: Sequence[Sequence[int]], cancellation: Cancellation | None) -> Any:
        read.append([len(row) for row in piece])
        return real(state, piece, cancellation)

    monkeypatch.setattr(decoder, "_read", spy)
    return read


def test_a_passage_is_read_once_and_changes_no_logits(
    tiny: TinyRag, decoder: CausalDecoder, remembering: CausalDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    preamble = prompts_of([5], seed=4)[0]
    passages, questions = prompts_of([9, 14], seed=5), prompts_of([3, 4, 6], seed=6)
    read = read_lengths(remembering, monkeypatch)
    for question in questions:
        pieces = [[*passages, passages[0]], [question] * 3]
        found = remembering.prefill(preamble, pieces, reserve=1)[1]
        np.testing.assert_array_equal(found, decoder.prefill(preamble, pieces, reserve=1)[1])
        prompts = [[*preamble, *passage, *question] for passage in pieces[0]]
        close(found[:, 0], oracle(tiny, prompts))
    assert read == [[9, 14], [3, 3, 3], [4, 4, 4], [6, 6, 6]]
    remembering.prefill(
        (), [[passages[0]], [questions[0]]], reserve=1
    )  # another preamble: other keys and values
    assert read[-2:] == [[9], [3]]


def test_passages_used_longest_ago_make_room(
    remembering: CausalDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = prompts_of([20, 15, 12, 41], seed=7)
    read = read_lengths(remembering, monkeypatch)
    for i in (0, 1, 0, 2, 0, 1, 3, 3):
        remembering.prefill((), [[passages[i]], [[5]]], reserve=1)
        assert remembering._passages.nbytes <= remembering._passages._max_bytes
    assert [lengths for lengths in read if lengths != [1]] == [[20], [15], [12], [15], [41], [41]]
