#pragma once

#include <cstddef>
#include <cstdint>

namespace rag_infer {

/// Exact inner-product search: the `k` rows with the largest inner product, for each query.
///
/// vectors [num_rows, dim] and queries [num_queries, dim] are row-major; `mask` (num_rows flags) leaves out
/// the rows where it is false and may be null. scores and rows are [num_queries, k], best first; equal scores
/// by lower row. Where fewer than `k` rows can be returned the rest is (minus infinity, -1).
///
/// - A row whose score is NaN (a NaN component, or infinities that cancel) is never returned.
/// - Infinite scores rank like numbers: a row with score minus infinity is returned, last, with its own
/// number.
/// - dim 0 makes every score 0. No rows or no queries is no error.
/// - Scores are float32 sums and differ between instruction levels in the last places, but not with the
/// number of
///   queries in the call, the mask or the threads.
///
/// `k` and `threads` are at least 1 (see arguments.hpp).
void topk(const float* vectors, std::size_t num_rows, const float* queries, std::size_t num_queries,
          std::size_t dim, std::size_t k, const bool* mask, std::size_t threads, float* scores,
          std::int64_t* rows);

}  // namespace rag_infer
