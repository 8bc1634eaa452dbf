"""The sums over passages against their float64 twins, at every instruction level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag_infer import _kernels
from tests import oracles

INF = np.inf
NAN = np.nan
Float32s = NDArray[np.float32]


def float32(values: object) -> Float32s:
    return np.array(values, dtype=np.float32)


def assert_log_probs_close(level: str, found: Float32s, expected: NDArray[np.float64]) -> None:
    tolerance = oracles.FLOAT32[level]
    np.testing.assert_allclose(
        found, expected, rtol=tolerance.log_prob_relative, atol=tolerance.log_prob_absolute
    )


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[Float32s, Float32s]:
    """Logits and priors: flat to extremely peaked, with impossible tokens, empty rows, weight zero and ties."""
    docs, beams = draw(st.integers(0, 6)), draw(st.integers(0, 4))
    vocab = draw(st.one_of(st.integers(1, 70), st.integers(1020, 1060), st.integers(2000, 2100)))
    scale = draw(st.sampled_from([0.0, 1.0, 10.0, 100.0, 1e4]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = (random.standard_normal((docs, beams, vocab)) * scale).astype(np.float32)
    if draw(st.booleans()):
        logits = logits.round(0)
    logits[random.random(logits.shape) < draw(st.sampled_from([0.0, 0.1, 0.9]))] = -INF
    logits[random.random((docs, beams)) < draw(st.sampled_from([0.0, 0.3]))] = -INF
    priors = np.log(random.dirichlet(np.ones(docs))).astype(np.float32) if docs else np.empty(0, np.float32)
    without = random.random(docs) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    priors[without] = -INF
    logits[without] = NAN  # a passage of weight zero is not looked at
    return logits, priors


@given(mixture=mixtures(), threads=st.integers(1, 3))
def test_log_probs_agree_with_the_twin(level, mixture, threads):
    found = _kernels.marginalise_log_probs(*mixture, threads=threads)
    assert found.dtype == np.float32
    assert_log_probs_close(level, found, oracles.marginalise_log_probs(*mixture))


@given(mixture=mixtures(), k=st.one_of(st.integers(1, 12), st.integers(1, 2200)), threads=st.integers(1, 3))
def test_topk_is_exactly_a_stable_sort_of_log_probs(level, mixture, k, threads):
    log_probs, tokens = _kernels.marginalise_topk(*mixture, k, threads=threads)
    full = _kernels.marginalise_log_probs(*mixture)
    order = np.argsort(-full, axis=1, kind="stable")[:, :k]
    found = order.shape[1]
    assert tokens.dtype == np.int64
    np.testing.assert_array_equal(tokens[:, :found], order)
    np.testing.assert_array_equal(log_probs[:, :found], np.take_along_axis(full, order, axis=1))
    assert (tokens[:, found:] == -1).all()
    assert np.isneginf(log_probs[:, found:]).all()


@given(mixture=mixtures(), k=st.integers(1, 8))
def test_topk_finds_the_twins_probabilities(level, mixture, k):
    log_probs, _ = _kernels.marginalise_topk(*mixture, k)
    assert_log_probs_close(level, log_probs, oracles.marginalise_topk(*mixture, k)[0])


@given(mixture=mixtures(), data=st.data())
def test_gather_agrees_with_log_probs_and_the_twin(level, mixture, data):
    logits, priors = mixture
    _, beams, vocab = logits.shape
    wanted = data.draw(st.integers(0, 20))
    tokens = np.random.default_rng(wanted).integers(0, vocab, (beams, wanted))
    marginal, per_document = _kernels.marginalise_gather(logits, priors, tokens)
    full = _kernels.marginalise_log_probs(logits, priors)
    np.testing.assert_array_equal(marginal, np.take_along_axis(full, tokens, axis=1))
    assert_log_probs_close(level, per_document, oracles.marginalise_gather(logits, priors, tokens)[1])


def test_a_beam_does_not_depend_on_the_others_nor_on_the_threads(level):
    random = np.random.default_rng(3)
    logits = (random.standard_normal((5, 4, 50_265)) * 4).astype(np.float32)
    priors = np.log(random.dirichlet(np.ones(5))).astype(np.float32)
    together = _kernels.marginalise_log_probs(logits, priors)
    np.testing.assert_array_equal(together, _kernels.marginalise_log_probs(logits, priors, threads=3))
    assert_log_probs_close(level, together, oracles.marginalise_log_probs(logits, priors))
    top = _kernels.marginalise_topk(logits, priors, 9)
    for part, threaded in zip(top, _kernels.marginalise_topk(logits, priors, 9, threads=3), strict=True):
        np.testing.assert_array_equal(part, threaded)
    for beam in range(4):
        alone = _kernels.marginalise_log_probs(np.ascontiguousarray(logits[:, beam : beam + 1]), priors)
        np.testing.assert_array_equal(together[beam], alone[0])


def test_what_float32_cannot_hold_linearly_is_still_exact(level):
    # Every token but one has probability far below 1e-38 under both passages.
    logits = np.linspace(-5000, -200, 3000, dtype=np.float32)[None, None].repeat(2, axis=0)
    logits[:, :, 7] = 0
    logits[1, :, 100:] -= 50
    priors = np.log(float32([0.25, 0.75]))
    expected = oracles.marginalise_log_probs(logits, priors)
    assert expected[0, 100] < -4000
    assert_log_probs_close(level, _kernels.marginalise_log_probs(logits, priors), expected)
    assert _kernels.marginalise_topk(logits, priors, 4)[1].tolist() == [[7, 2999, 2998, 2997]]


def test_small_probabilities_are_not_lost_beside_a_large_one(level):
    # A hundred thousand tokens of 1e-8 each add a thousandth to the normaliser.
    logits = np.full((1, 1, 100_001), np.log(1e-8), dtype=np.float32)
    logits[0, 0, 0] = 0
    found = _kernels.marginalise_log_probs(logits, float32([0]))
    assert_log_probs_close(level, found, oracles.marginalise_log_probs(logits, float32([0])))


@pytest.mark.parametrize("descending", [False, True])
def test_sorted_logits(level, descending):
    # Ascending logits make every token a new best: the longest way through the threshold.
    logits = np.linspace(0, 30, 4099, dtype=np.float32)[None, None].repeat(3, axis=0)
    logits = np.ascontiguousarray(logits[:, :, ::-1]) if descending else logits
    expected = np.arange(5) if descending else 4098 - np.arange(5)
    assert _kernels.marginalise_topk(logits, np.log(float32([0.2, 0.3, 0.5])), 5)[1].tolist() == [
        expected.tolist()
    ]


def logs(*rows: list[float]) -> Float32s:
    with np.errstate(divide="ignore"):
        return np.log(float32(rows))[:, None, :]


TABLE = [
    # name, logits [docs, 1, vocab], priors, log-probabilities as probabilities [vocab]
    ("one passage", logs([0.5, 0.25, 0.25]), [1.0], [0.5, 0.25, 0.25]),
    ("half and half", logs([0.5, 0.5], [0.25, 0.75]), [0.5, 0.5], [0.375, 0.625]),
    ("unnormalised logits", logs([2, 2], [1, 3]), [0.5, 0.5], [0.375, 0.625]),
    ("an impossible token", logs([0.5, 0.5, 0], [0.25, 0.75, 0]), [0.5, 0.5], [0.375, 0.625, 0]),
    ("weight zero", logs([0.5, 0.5], [NAN, INF]), [1.0, 0.0], [0.5, 0.5]),
    ("an empty distribution adds nothing", logs([0.5, 0.5], [0, 0]), [0.5, 0.5], [0.25, 0.25]),
    ("all empty", logs([0, 0], [0, 0]), [0.5, 0.5], [0, 0]),
    ("all weights zero", logs([0.5, 0.5]), [0.0], [0, 0]),
    ("priors are used as they are", logs([0.5, 0.5]), [4.0], [2.0, 2.0]),
    ("no passages", np.empty((0, 1, 2), np.float32), [], [0, 0]),
]


@pytest.mark.parametrize(("logits", "weights", "expected"), [t[1:] for t in TABLE], ids=[t[0] for t in TABLE])
def test_table(level, logits, weights, expected):
    with np.errstate(divide="ignore"):
        priors = np.log(float32(weights))
    found = _kernels.marginalise_log_probs(logits, priors)
    np.testing.assert_allclose(np.exp(found), [expected], rtol=1e-6)
    log_probs, tokens = _kernels.marginalise_topk(logits, priors, 1)
    assert tokens.tolist() == [[int(np.argmax(expected))]]
    assert log_probs[0, 0] == found.max()


def test_per_document_leaves_out_priors_and_skipped_passages(level):
    logits = logs([0.5, 0.5], [0.25, 0.75], [NAN, NAN], [0, 0])
    with np.errstate(divide="ignore"):
        priors = np.log(float32([0.9, 0.1, 0.0, 0.0]))
    marginal, per_document = _kernels.marginalise_gather(logits, priors, np.array([[1, 1, 0]]))
    np.testing.assert_allclose(np.exp(marginal), [[0.525, 0.525, 0.475]], rtol=1e-6)
    expected = [[[0.5, 0.5, 0.5]], [[0.75, 0.75, 0.25]], [[0, 0, 0]], [[0, 0, 0]]]
    np.testing.assert_allclose(np.exp(per_document), expected, rtol=1e-6)


def test_empty_vocabulary_and_no_beams(level):
    priors = float32([0])
    log_probs, tokens = _kernels.marginalise_topk(np.empty((1, 2, 0), np.float32), priors, 2)
    assert np.isneginf(log_probs).all()
    assert tokens.tolist() == [[-1, -1], [-1, -1]]
    assert _kernels.marginalise_log_probs(np.empty((1, 2, 0), np.float32), priors).shape == (2, 0)
    assert _kernels.marginalise_topk(np.empty((1, 0, 5), np.float32), priors, 2)[1].shape == (0, 2)


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("position", [0, 6, 1023, 1024, 2050])
@pytest.mark.parametrize("rest", [0.0, -INF])
def test_nan_and_plus_infinity_are_refused_wherever_they_stand(level, bad, position, rest):
    logits = np.full((3, 2, 2051), rest, dtype=np.float32)
    logits[1, 1, position] = bad
    priors = np.log(float32([0.2, 0.3, 0.5]))
    message = r"logits\[1, 1\] \(passage, beam\) hold NaN or plus infinity"
    for kernel in (
        lambda: _kernels.marginalise_topk(logits, priors, 2),
        lambda: _kernels.marginalise_log_probs(logits, priors),
        lambda: _kernels.marginalise_gather(logits, priors, np.zeros((2, 1), np.int64)),
    ):
        with pytest.raises(ValueError, match=message):
            kernel()


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ([0, NAN], r"log_priors\[1\] is -?nan"),
        ([INF, 0], r"log_priors\[0\] is inf"),
        ([0], r"logits \[2, 1, 3\] and log_priors \[1\] differ in docs: 2 and 1"),
        ([[0, 0]], r"log_priors has shape \[1, 2\], expected \[docs\]"),
    ],
)
def test_bad_priors(priors, message):
    with pytest.raises(ValueError, match=message):
        _kernels.marginalise_log_probs(np.zeros((2, 1, 3), np.float32), float32(priors))


@pytest.mark.parametrize("token", [-1, 3, 2**62])
def test_a_token_outside_the_vocabulary(token):
    with pytest.raises(ValueError, match=rf"tokens\[0, 1\] is {token}, outside the vocabulary of 3"):
        _kernels.marginalise_gather(np.zeros((1, 1, 3), np.float32), float32([0]), np.array([[2, token]]))


def test_numbers_and_shapes_are_quoted():
    logits, priors = np.zeros((1, 2, 3), np.float32), float32([0])
    with pytest.raises(ValueError, match="k is 0"):
        _kernels.marginalise_topk(logits, priors, 0)
    with pytest.raises(ValueError, match="threads is -1"):
        _kernels.marginalise_log_probs(logits, priors, threads=-1)
    with pytest.raises(ValueError, match=r"logits has shape \[2, 3\], expected \[docs, beams, vocab\]"):
        _kernels.marginalise_log_probs(logits[0], priors)
    with pytest.raises(ValueError, match=r"logits \[1, 2, 3\] and tokens \[1, 1\] differ in beams: 2 and 1"):
        _kernels.marginalise_gather(logits, priors, np.array([[0]]))


@pytest.mark.parametrize(
    ("logits", "priors", "tokens"),
    [
        (np.zeros((1, 1, 3)), float32([0]), np.array([[0]])),
        (np.zeros((1, 1, 6), np.float32)[:, :, ::2], float32([0]), np.array([[0]])),
        (np.zeros((1, 1, 3), np.float32), np.zeros(1), np.array([[0]])),
        (np.zeros((1, 1, 3), np.float32), float32([0]), np.array([[0]], dtype=np.int32)),
    ],
    ids=["float64 logits", "strided logits", "float64 priors", "int32 tokens"],
)
def test_other_types_and_layouts_are_refused(logits, priors, tokens):
    with pytest.raises(TypeError):
        _kernels.marginalise_gather(logits, priors, tokens)
