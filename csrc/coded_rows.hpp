#pragma once

#include <cstddef>
#include <cstdint>

namespace rag_infer {

/// Rows of float32 in fewer bits, and how far that is from them: row r is scales[r] * codes[r] but for a
/// remainder whose Euclidean length is at most errors[r]; the length of scales[r] * codes[r] is at most
/// norms[r]. A code is an int8, or the bits of a float16.
template <class Code>
struct CodedRows {
    const Code* codes;    // [rows, dim]
    const float* scales;  // [rows]
    const float* errors;  // [rows]
    const float* norms;   // [rows]
};

using QuantisedRows = CodedRows<std::int8_t>;
using HalfRows = CodedRows<std::uint16_t>;

/// No longer than this, a row and a query have a product that float32 can hold, and so can their bounds.
constexpr double kLargestNorm = 1e18;

/// The Euclidean length of `vector`: NaN or infinite where it has such a component.
double length(const float* vector, std::size_t dim);

/// The least float32 that is not below `x`.
float rounded_up(double x);

/// What a sum of `dim` squares in double may lack: its root times this is not below the true length.
inline double length_slack(std::size_t dim) {
    // The sum is relatively off by at most (dim + 2) * 2^-53, its root by half of that.
    return 1.0 + (static_cast<double>(dim) + 8.0) * 0x1p-53;
}

}  // namespace rag_infer
