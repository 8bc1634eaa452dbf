#pragma once

#include <cstddef>
#include <cstdint>

namespace rag_infer {

/// Above this many dimensions so little is left of the int32 sums for a query's integers that they are no
/// use.
constexpr std::size_t kLargestIntegerDim = std::size_t{1} << 20;

/// A query in integers: q = scale * integers + f. The estimate of its score with a row is scale * the row's
/// scale * the product of the integers; the score is off it by at most
///
///     error * per_error + norm * per_norm + constant        (see topk_int8.hpp)
struct IntegerQuery {
    double scale;
    double per_error;
    double per_norm;
    double constant;
};

/// Whether the query has integers: its length is a number of at most kLargestNorm, and dim at most
/// kLargestIntegerDim.
bool has_integers(const float* query, std::size_t dim);

/// Writes the integers (dim of them), as wide as int32 sums with int8 codes allow.
IntegerQuery integer_query(const float* query, std::size_t dim, std::int16_t* integers);

}  // namespace rag_infer
