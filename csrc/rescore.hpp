#pragma once

#include <cstddef>
#include <cstdint>

namespace rag_infer {

/// The scores of some rows with each query: scores[q, i] is that of rows[q, i] with query q, bit for bit what
/// `topk` gives it. vectors is [num_rows, dim], queries [num_queries, dim], rows [num_queries, count],
/// row-major. A row that is not there (below 0, or num_rows and above) has score minus infinity.
///
/// `threads` is at least 1 (see arguments.hpp).
void rescore(const float* vectors, std::size_t num_rows, const std::int64_t* rows, std::size_t count,
             const float* queries, std::size_t num_queries, std::size_t dim, std::size_t threads,
             float* scores);

}  // namespace rag_infer
