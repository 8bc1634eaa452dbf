#pragma once

#include <cstddef>
#include <cstdint>

#include "coded_rows.hpp"

namespace rag_infer {

/// What `topk` gives, scores and rows, bit for bit, from one pass over the float16 codes of the rows and a
/// look at the few float32 rows that may be among the best.
///
/// Why nothing is missed. Let a row be v = c + e with c = scale * codes, |c| <= norm, |e| <= error. Then
/// |v.q - c.q| <= error |q|. The estimate of c.q, and the score that `topk` computes of v.q, are float32 sums
/// of dim products: each is off by at most about dim 2^-24 times the product of the lengths. The bound has
/// twice that for each. Once k rows have scores of at least t (the k-th best lower bound), no row whose upper
/// bound is below t is among the k best, ties included. All other rows are scored by the leaf that `topk`
/// uses.
///
/// Arguments and contract are those of `topk_int8`, but that `halves` is what `halve_rows` made of the same
/// vectors.
void topk_float16(const HalfRows& halves, const float* vectors, std::size_t num_rows, const float* queries,
                  std::size_t num_queries, std::size_t dim, std::size_t k, const bool* mask,
                  std::size_t threads, float* scores, std::int64_t* rows, std::int64_t* rescored);

}  // namespace rag_infer
