#pragma once

#include <cstddef>
#include <cstdint>

#include "coded_rows.hpp"

namespace rag_infer {

/// Rows as float16 (IEEE 754 binary16, as bits), vectors being [num_rows, dim], row-major: scale is the power
/// of two that leaves the largest component in [1, 2), codes = v / scale to the nearest, halves to even. The
/// lengths are computed in double and rounded up.
///
/// - A row of zeros has scale 0.
/// - A row with NaN or an infinity, or longer than kLargestNorm, has error plus infinity, the rest being 0:
///   nothing is known of it.
///
/// `threads` is at least 1 (see arguments.hpp).
void halve_rows(const float* vectors, std::size_t num_rows, std::size_t dim, std::size_t threads,
                std::uint16_t* codes, float* scales, float* errors, float* norms);

}  // namespace rag_infer
