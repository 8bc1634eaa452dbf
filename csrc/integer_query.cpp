#include "integer_query.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "coded_rows.hpp"

namespace rag_infer {
namespace {

/// So large that dim products with codes down to -128 stay below 2^31.
double largest_integer(std::size_t dim) {
    constexpr std::size_t kLargestSum = std::numeric_limits<std::int32_t>::max();
    constexpr std::size_t kLargestWord = std::numeric_limits<std::int16_t>::max();
    return static_cast<double>(std::min(kLargestWord, kLargestSum / (128 * std::max<std::size_t>(1, dim))));
}

}  // namespace

bool has_integers(const float* query, std::size_t dim) {
    return dim <= kLargestIntegerDim && length(query, dim) <= kLargestNorm;
}

CodedQuery integer_query(const float* query, std::size_t dim, std::int16_t* integers) {
    double largest = 0.0;
    for (std::size_t d = 0; d < dim; ++d) {
        largest = std::max(largest, std::fabs(static_cast<double>(query[d])));
    }
    const double scale = largest / largest_integer(dim);
    double rest_squares = 0.0;
    for (std::size_t d = 0; d < dim; ++d) {
        const double value = query[d];
        const double integer = scale > 0.0 ? std::nearbyint(value / scale) : 0.0;
        integers[d] = static_cast<std::int16_t>(integer);
        rest_squares += (value - scale * integer) * (value - scale * integer);
    }
    const double norm = length(query, dim);
    const double terms = static_cast<double>(dim) + 16.0;
    const double rounding = terms * 0x1p-23 * norm;
    // The last term: products too small for float32 lose up to 2^-150 each.
    return {scale, norm + rounding, std::sqrt(rest_squares) + rounding, terms * 0x1p-149};
}

}  // namespace rag_infer
