"""How long does one step of RAG-Token's sum over passages take, against numpy in log space and in linear space?

All run on one thread unless ``--threads`` says otherwise for the kernels; numpy's element-wise functions have one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.options import check_k, positive, timing_parser
from benchmarks.report import Comparison, check_close, interleave, print_report
from benchmarks.script import script
from rag_infer import _kernels

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]

# Both sides are float32 sums of 50,265 terms.
LOG_PROB_TOLERANCE = 2e-5


def numpy_log_probs(logits: Floats, log_priors: Floats) -> Floats:
    """The formula as it stands: log-softmax, then log-sum-exp over passages."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    shifted += log_priors[:, None, None]
    largest = shifted.max(axis=0)
    result: Floats = np.log(np.exp(shifted - largest).sum(axis=0)) + largest
    return result


def numpy_linear_probs(logits: Floats, log_priors: Floats) -> Floats:
    """Softmax and a weighted sum: faster, and zero below 1e-38."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights = np.exp(log_priors)[:, None] / exponentials.sum(axis=-1)
    result: Floats = np.einsum("zb,zbv->bv", weights, exponentials)
    return result


def largest(values: Floats, k: int) -> tuple[Floats, Tokens]:
    """The k largest of each row, in order."""
    tokens = np.argpartition(values, -k, axis=1)[:, -k:]
    best = np.take_along_axis(values, tokens, axis=1)
    order = np.argsort(-best, axis=1)
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(tokens, order, axis=1)


def check(logits: Floats, log_priors: Floats, k: int) -> None:
    """Raise `DifferentAnswersError` unless all ways give the same log-probabilities."""
    expected = numpy_log_probs(logits, log_priors)
    full = _kernels.marginalise_log_probs(logits, log_priors)
    check_close("marginalise_log_probs", full, expected, tolerance=LOG_PROB_TOLERANCE)
    best, _ = largest(expected, k)
    linear, _ = largest(numpy_linear_probs(logits, log_priors), k)
    found, _ = _kernels.marginalise_topk(logits, log_priors, k)
    check_close("numpy, linear", np.log(linear), best, tolerance=LOG_PROB_TOLERANCE)
    check_close("marginalise_topk", found, best, tolerance=LOG_PROB_TOLERANCE)


def compare(logits: Floats, log_priors: Floats, k: int, threads: int, repeats: int) -> list[Comparison]:
    """Check, then time the k best tokens, and all tokens."""
    check(logits, log_priors, k)
    docs, beams, vocab = logits.shape
    shape = f"{beams} beams x {docs} docs x {vocab}"
    top = {
        "numpy, log space": lambda: largest(numpy_log_probs(logits, log_priors), k),
        "numpy, linear": lambda: largest(numpy_linear_probs(logits, log_priors), k),
        "marginalise_topk": lambda: _kernels.marginalise_topk(logits, log_priors, k, threads=threads),
    }
    full = {
        "numpy, log space": lambda: numpy_log_probs(logits, log_priors),
        "marginalise_log_probs": lambda: _kernels.marginalise_log_probs(logits, log_priors, threads=threads),
    }
    return [
        interleave(f"top {k}, {shape}", top, repeats),
        interleave(f"all, {shape}", full, repeats),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = timing_parser(__doc__, repeats=51, threads=1)
    parser.add_argument("--docs", type=positive, default=5)
    parser.add_argument("--beams", type=positive, default=4)
    parser.add_argument("--vocab", type=positive, default=50_265)
    parser.add_argument("--scale", type=float, default=4.0, help="standard deviation of the random logits")
    parser.add_argument("-k", type=positive, default=8)
    parser.add_argument("--quick", action="store_true", help="few repeats: does it run at all")
    arguments = parser.parse_args(argv)
    check_k(parser, arguments, "vocab")
    random = np.random.default_rng(arguments.seed)
    shape = (arguments.docs, arguments.beams, arguments.vocab)
    logits = random.standard_normal(shape, dtype=np.float32) * np.float32(arguments.scale)
    log_priors = np.log(random.dirichlet(np.ones(arguments.docs))).astype(np.float32)
    repeats = 2 if arguments.quick else arguments.repeats
    comparisons = compare(logits, log_priors, arguments.k, arguments.threads, repeats)
    print_report(
        "marginalise", comparisons, seed=arguments.seed, threads=arguments.threads, chart=arguments.chart
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
