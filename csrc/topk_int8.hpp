#pragma once

#include <cstddef>
#include <cstdint>

#include "coded_rows.hpp"

namespace rag_infer {

/// What `topk` gives, scores and rows, bit for bit, from one pass over the int8 codes of the rows and a look
/// at the few float32 rows that may be among the best.
///
/// Why nothing is missed. Let a row be v = c + e with c = scale * codes, |c| <= norm, |e| <= error, and a
/// query q = p + f with p in integers. Then v.q - c.p = e.q + c.f, so |v.q - c.p| <= error |q| + norm |f|;
/// and the score that `topk` computes is off v.q by at most about dim 2^-24 |v| |q|, |v| <= norm + error. The
/// bound has more than twice that, which covers its own rounding. Once k rows have scores of at least t (the
/// k-th best lower bound), no row whose upper bound is below t is among the k best, ties included. All other
/// rows are scored by the leaf that `topk` uses.
///
/// Arguments and contract are those of `topk`, and:
///
/// - `quantised` is what `quantise_rows` made of the same vectors.
/// - rescored[q] is how many rows were scored in float32; it does not depend on the threads.
/// - Rows with error plus infinity are always among them.
/// - A query with NaN or an infinity, or longer than kLargestNorm, is searched by `topk` itself, and so is
///   any above kLargestIntegerDim dimensions.
void topk_int8(const QuantisedRows& quantised, const float* vectors, std::size_t num_rows,
               const float* queries, std::size_t num_queries, std::size_t dim, std::size_t k,
               const bool* mask, std::size_t threads, float* scores, std::int64_t* rows,
               std::int64_t* rescored);

}  // namespace rag_infer
