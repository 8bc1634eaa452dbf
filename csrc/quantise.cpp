#include "quantise.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "parallel.hpp"

namespace rag_infer {
namespace {

constexpr float kLargestCode = 127.0F;
// Below this many components a thread costs more than it gains.
constexpr std::size_t kWorkPerThread = std::size_t{1} << 18;
// Rows that a thread takes at a time.
constexpr std::size_t kPieceRows = 256;

/// The nearest integer in [-127, 127], halves to even.
float code_of(float x) {
    constexpr float kShift = 12582912.0F;  // 1.5 * 2^23: adding it leaves no bits for a fraction
    return std::min(std::max((x + kShift) - kShift, -kLargestCode), kLargestCode);
}

void quantise_row(const float* vector, std::size_t dim, std::int8_t* codes, float* scale, float* error,
                  float* norm) {
    float largest = 0.0F;
    const bool known = length(vector, dim) <= kLargestNorm;
    for (std::size_t d = 0; known && d < dim; ++d) largest = std::max(largest, std::fabs(vector[d]));
    *scale = largest / kLargestCode;
    double error_squares = 0.0;
    double code_squares = 0.0;
    for (std::size_t d = 0; d < dim; ++d) {
        const float code = *scale > 0.0F ? code_of(vector[d] / *scale) : 0.0F;
        const double rest = static_cast<double>(vector[d]) - static_cast<double>(*scale) * code;
        codes[d] = static_cast<std::int8_t>(code);
        error_squares += rest * rest;
        code_squares += static_cast<double>(code) * code;
    }
    const double slack = length_slack(dim);
    *error = known ? rounded_up(std::sqrt(error_squares) * slack) : std::numeric_limits<float>::infinity();
    *norm = rounded_up(static_cast<double>(*scale) * std::sqrt(code_squares) * slack);
}

}  // namespace

void quantise_rows(const float* vectors, std::size_t num_rows, std::size_t dim, std::size_t threads,
                   std::int8_t* codes, float* scales, float* errors, float* norms) {
    const std::size_t smallest = kWorkPerThread / std::max<std::size_t>(1, dim);
    const std::size_t workers = num_workers(num_rows, smallest, threads);
    parallel_pieces(num_rows, kPieceRows, workers, [&](std::size_t, std::size_t begin, std::size_t end) {
        for (std::size_t row = begin; row < end; ++row) {
            quantise_row(vectors + row * dim, dim, codes + row * dim, scales + row, errors + row,
                         norms + row);
        }
    });
}

}  // namespace rag_infer
