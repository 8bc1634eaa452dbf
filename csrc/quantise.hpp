#pragma once

#include <cstddef>
#include <cstdint>

#include "coded_rows.hpp"

namespace rag_infer {

/// Symmetric quantisation of each row, vectors being [num_rows, dim], row-major: scale = max |v| / 127,
/// codes = v / scale to the nearest. The lengths are computed in double and rounded up.
///
/// - A row of zeros has scale 0.
/// - A row with NaN or an infinity, or longer than kLargestNorm, has error plus infinity, the rest being 0:
///   nothing is known of it.
///
/// `threads` is at least 1 (see arguments.hpp).
void quantise_rows(const float* vectors, std::size_t num_rows, std::size_t dim, std::size_t threads,
                   std::int8_t* codes, float* scales, float* errors, float* norms);

}  // namespace rag_infer
