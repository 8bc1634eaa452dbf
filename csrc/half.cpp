#include "half.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "half_bits.hpp"
#include "parallel.hpp"

namespace rag_infer {
namespace {

// Below this many components a thread costs more than it gains.
constexpr std::size_t kWorkPerThread = std::size_t{1} << 18;
// Rows that a thread takes at a time.
constexpr std::size_t kPieceRows = 256;

void halve_row(const float* vector, std::size_t dim, std::uint16_t* codes, float* scale, float* error,
               float* norm) {
    float largest = 0.0F;
    const bool known = length(vector, dim) <= kLargestNorm;
    for (std::size_t d = 0; known && d < dim; ++d) largest = std::max(largest, std::fabs(vector[d]));
    const double unit = largest > 0.0F ? std::ldexp(1.0, std::ilogb(largest)) : 0.0;
    const double inverse = unit > 0.0 ? 1.0 / unit : 0.0;
    double error_squares = 0.0;
    double code_squares = 0.0;
    for (std::size_t d = 0; d < dim; ++d) {
        const std::uint16_t code = known ? float_to_half(static_cast<float>(vector[d] * inverse)) : 0;
        const double restored = half_to_float(code) * unit;
        const double rest = static_cast<double>(vector[d]) - restored;
        codes[d] = code;
        error_squares += rest * rest;
        code_squares += restored * restored;
    }
    const double slack = length_slack(dim);
    *scale = static_cast<float>(unit);
    *error = known ? rounded_up(std::sqrt(error_squares) * slack) : std::numeric_limits<float>::infinity();
    *norm = rounded_up(std::sqrt(code_squares) * slack);
}

}  // namespace

void halve_rows(const float* vectors, std::size_t num_rows, std::size_t dim, std::size_t threads,
                std::uint16_t* codes, float* scales, float* errors, float* norms) {
    const std::size_t smallest = kWorkPerThread / std::max<std::size_t>(1, dim);
    const std::size_t workers = num_workers(num_rows, smallest, threads);
    parallel_pieces(num_rows, kPieceRows, workers, [&](std::size_t, std::size_t begin, std::size_t end) {
        for (std::size_t row = begin; row < end; ++row) {
            halve_row(vectors + row * dim, dim, codes + row * dim, scales + row, errors + row, norms + row);
        }
    });
}

}  // namespace rag_infer
