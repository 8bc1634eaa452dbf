#pragma once

#include <cstddef>
#include <cstdint>

namespace rag_infer {

/// Rows of float32 as int8, and how far that is from them: row r is scales[r] * codes[r] but for a remainder
/// whose Euclidean length is at most errors[r]; the length of scales[r] * codes[r] is at most norms[r].
struct QuantisedRows {
    const std::int8_t* codes;  // [rows, dim]
    const float* scales;       // [rows]
    const float* errors;       // [rows]
    const float* norms;        // [rows]
};

/// No longer than this, a row and a query have a product that float32 can hold, and so can their bounds.
constexpr double kLargestNorm = 1e18;

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
