#pragma once

// What help() says; the signature before it is pybind11's.
namespace rag_infer::docstrings {

constexpr const char* kTopkDoc =
    R"(Exact inner-product search: for each query the k rows with the largest inner product.

Args:
    vectors: float32 [n, dim], C order.
    queries: float32 [q, dim], C order.
    k: how many rows per query, at least 1.
    mask: bool [n]; rows where it is false are left out.
    threads: at least 1; the result does not depend on it.

Returns:
    (scores float32 [q, k], rows int64 [q, k]), best first, equal scores by lower row. Where fewer than k rows
    can be returned the rest is minus infinity and row -1. A row whose score is NaN is never returned. A query's
    result does not depend on the other queries of the call.

Raises:
    TypeError: another dtype or memory order (arrays are refused, not converted).
    ValueError: shapes that do not fit, k or threads below 1.

>>> import numpy as np
>>> vectors = np.array([[1, 0], [0, 2], [3, 0]], dtype=np.float32)
>>> scores, rows = topk(vectors, np.array([[1, 0]], dtype=np.float32), 2)
>>> scores.tolist(), rows.tolist()
([[3.0, 1.0]], [[2, 0]]))";

constexpr const char* kQuantiseRowsDoc =
    R"(Rows as int8, each with its scale and with what topk_int8 needs to be exact.

scale = max |v| / 127, codes = v / scale to the nearest, so v = scale * codes + remainder.

Args:
    vectors: float32 [n, dim], C order.
    threads: at least 1; the result does not depend on it.

Returns:
    (codes int8 [n, dim], scales float32 [n], errors float32 [n], norms float32 [n]). errors are at least the
    Euclidean length of the remainder, norms at least that of scale * codes: computed in float64, rounded up.
    A row of zeros has scale 0. A row with NaN or an infinity, or longer than 1e18, has error plus infinity and
    zeros otherwise: topk_int8 always looks at the row itself.

Raises:
    TypeError: another dtype or memory order (arrays are refused, not converted).
    ValueError: vectors that are not two-dimensional, threads below 1.

>>> import numpy as np
>>> codes, scales, errors, norms = quantise_rows(np.array([[127, -64], [0, 0]], dtype=np.float32))
>>> codes.tolist(), scales.tolist(), errors.tolist()
([[127, -64], [0, 0]], [1.0, 0.0], [0.0, 0.0]))";

constexpr const char* kTopkInt8Doc =
    R"(Exactly what topk returns, from a pass over the int8 codes: a quarter of the memory traffic.

The difference between a row's score and its estimate from the codes is bounded (Cauchy-Schwarz, by errors and
norms, and float32 rounding). Rows whose upper bound is below the k-th best lower bound cannot be among the k
best; all others are scored from vectors as topk does. If the arrays are not those that quantise_rows made of the
same vectors, best rows may be missed.

Args:
    codes, scales, errors, norms: of quantise_rows(vectors).
    vectors: float32 [n, dim], C order; may be a memory map, few rows are read.
    queries: float32 [q, dim], C order. One with NaN or an infinity, or longer than 1e18, is searched by topk.
    k: how many rows per query, at least 1.
    mask: bool [n]; rows where it is false are left out.
    threads: at least 1; the result does not depend on it.

Returns:
    (scores float32 [q, k], rows int64 [q, k], rescored int64 [q]): scores and rows as topk, bit for bit, and how
    many rows were scored from vectors.

Raises:
    TypeError: another dtype or memory order (arrays are refused, not converted).
    ValueError: shapes that do not fit, k or threads below 1.

>>> import numpy as np
>>> vectors = np.array([[1, 0], [0, 2], [3, 0], [0, 1]], dtype=np.float32)
>>> scores, rows, rescored = topk_int8(*quantise_rows(vectors), vectors, np.array([[1, 0]], dtype=np.float32), 2)
>>> scores.tolist(), rows.tolist(), rescored.tolist()
([[3.0, 1.0]], [[2, 0]], [2]))";

constexpr const char* kHalveRowsDoc =
    R"(Rows as float16, each with its scale and with what topk_float16 needs to be exact.

scale is the power of two that leaves the largest component in [1, 2), codes = v / scale to the nearest, so
v = scale * codes + remainder: no row is too long or too short for float16.

Args:
    vectors: float32 [n, dim], C order.
    threads: at least 1; the result does not depend on it.

Returns:
    (codes uint16 [n, dim], scales float32 [n], errors float32 [n], norms float32 [n]). codes are the bits of
    float16: codes.view(numpy.float16) has the numbers. errors are at least the Euclidean length of the remainder,
    norms at least that of scale * codes: computed in float64, rounded up. A row of zeros has scale 0. A row with
    NaN or an infinity, or longer than 1e18, has error plus infinity and zeros otherwise: topk_float16 always looks
    at the row itself.

Raises:
    TypeError: another dtype or memory order (arrays are refused, not converted).
    ValueError: vectors that are not two-dimensional, threads below 1.

>>> import numpy as np
>>> codes, scales, errors, norms = halve_rows(np.array([[6, -1], [0, 0]], dtype=np.float32))
>>> codes.view(np.float16).tolist(), scales.tolist(), errors.tolist()
([[1.5, -0.25], [0.0, 0.0]], [4.0, 0.0], [0.0, 0.0]))";

constexpr const char* kTopkFloat16Doc =
    R"(Exactly what topk returns, from a pass over the float16 codes: half of the memory traffic.

As topk_int8, with codes so near to the rows that hardly more than k of them have to be looked at.

Args:
    codes, scales, errors, norms: of halve_rows(vectors).
    vectors: float32 [n, dim], C order; may be a memory map, few rows are read.
    queries: float32 [q, dim], C order. One with NaN or an infinity, or longer than 1e18, is searched by topk.
    k: how many rows per query, at least 1.
    mask: bool [n]; rows where it is false are left out.
    threads: at least 1; the result does not depend on it.

Returns:
    (scores float32 [q, k], rows int64 [q, k], rescored int64 [q]): scores and rows as topk, bit for bit, and how
    many rows were scored from vectors.

Raises:
    TypeError: another dtype or memory order (arrays are refused, not converted).
    ValueError: shapes that do not fit, k or threads below 1.

>>> import numpy as np
>>> vectors = np.array([[1, 0], [0, 2], [3, 0], [0, 1]], dtype=np.float32)
>>> scores, rows, rescored = topk_float16(*halve_rows(vectors), vectors, np.array([[1, 0]], dtype=np.float32), 2)
>>> scores.tolist(), rows.tolist(), rescored.tolist()
([[3.0, 1.0]], [[2, 0]], [2]))";

constexpr const char* kRescoreDoc =
    R"(Scores of some rows with each query, bit for bit those of topk.

Args:
    vectors: float32 [n, dim], C order; may be a memory map, only the rows asked for are read.
    rows: int64 [q, count], C order; for each query rows of vectors.
    queries: float32 [q, dim], C order.
    threads: at least 1; the result does not depend on it.

Returns:
    float32 [q, count]; minus infinity where there is no such row (below 0, or n and above).

Raises:
    TypeError: another dtype or memory order (arrays are refused, not converted).
    ValueError: shapes that do not fit, threads below 1.

>>> import numpy as np
>>> vectors = np.array([[1, 0], [0, 2], [3, 0]], dtype=np.float32)
>>> rescore(vectors, np.array([[2, -1, 0]]), np.array([[1, 1]], dtype=np.float32)).tolist()
[[3.0, -inf, 1.0]])";

constexpr const char* kMarginaliseTopkDoc =
    R"(The k most probable tokens of the mixture over passages, for each beam.

log p(v) = logsumexp_z(log_priors[z] + log_softmax_v(logits[z])[v])   (Lewis et al. 2020, RAG-Token)

Args:
    logits: float32 [docs, beams, vocab], C order. Minus infinity is an impossible token.
    log_priors: float32 [docs], used as they are. Minus infinity is weight zero: that passage is skipped,
        whatever its logits.
    k: how many tokens per beam, at least 1.
    threads: at least 1; the result does not depend on it.

Returns:
    (log_probs float32 [beams, k], tokens int64 [beams, k]), best first, equal values by lower token: exactly a
    stable sort of marginalise_log_probs. Where k exceeds the vocabulary the rest is minus infinity and token -1.

Raises:
    TypeError: another dtype or memory order (arrays are refused, not converted).
    ValueError: shapes that do not fit, k or threads below 1, NaN or plus infinity in the logits of a passage with
        positive weight or in the priors.

>>> import numpy as np
>>> logits = np.log(np.array([[[0.5, 0.25, 0.25]], [[0.125, 0.75, 0.125]]], dtype=np.float32))
>>> log_probs, tokens = marginalise_topk(logits, np.log(np.array([0.5, 0.5], dtype=np.float32)), 2)
>>> np.exp(log_probs).round(4).tolist(), tokens.tolist()
([[0.5, 0.3125]], [[1, 0]]))";

constexpr const char* kMarginaliseLogProbsDoc =
    R"(The mixture's log-probability of every token: float32 [beams, vocab].

Arguments, contract and errors as marginalise_topk. A row of nothing but minus infinity is an empty distribution and
adds nothing; no passages, or all weights zero, give minus infinity everywhere.

>>> import numpy as np
>>> logits = np.log(np.array([[[0.5, 0.5]], [[0.25, 0.75]]], dtype=np.float32))
>>> log_priors = np.log(np.array([0.5, 0.5], dtype=np.float32))
>>> np.exp(marginalise_log_probs(logits, log_priors)).round(3).tolist()
[[0.375, 0.625]])";

constexpr const char* kMarginaliseGatherDoc =
    R"(Log-probabilities of given tokens: under the mixture, and under each passage alone.

Args:
    logits: float32 [docs, beams, vocab], C order.
    log_priors: float32 [docs], used as they are.
    tokens: int64 [beams, m], each in [0, vocab).
    threads: at least 1; the result does not depend on it.

Returns:
    (marginal float32 [beams, m], per_document float32 [docs, beams, m]). The first equals marginalise_log_probs at
    these tokens; the second is log_softmax_v(logits[z]) without the prior, and minus infinity for a passage of
    weight zero. log_priors[z] + per_document[z] - marginal is the log posterior of passage z.

Raises:
    TypeError, ValueError: as marginalise_topk; ValueError also for a token outside the vocabulary.

>>> import numpy as np
>>> logits = np.log(np.array([[[0.5, 0.5]], [[0.25, 0.75]]], dtype=np.float32))
>>> priors = np.log(np.array([0.5, 0.5], dtype=np.float32))
>>> marginal, per_document = marginalise_gather(logits, priors, np.array([[1]]))
>>> np.exp(marginal).round(3).tolist(), np.exp(per_document).round(3).tolist()
([[0.625]], [[[0.5]], [[0.75]]]))";

constexpr const char* kInstructionLevelDoc = R"(The level in use: "avx512", "avx2", "neon" or "scalar".

The best the processor has, or at import the one the environment variable RAG_INFER_KERNELS names.)";

constexpr const char* kAvailableLevelsDoc = R"(The levels this processor can run, best first.)";

constexpr const char* kHasVnniDoc =
    R"(Whether the processor has AVX512-VNNI or AVX-VNNI, whatever level is in use.)";

constexpr const char* kSetInstructionLevelDoc =
    R"(Uses another level from now on, in all threads. For tests and measurements.

Raises:
    ValueError: an unknown level, or one this processor lacks.)";

}  // namespace rag_infer::docstrings
