#pragma once

#include <cstddef>
#include <cstdint>

#include "coded_query.hpp"

namespace rag_infer {

/// Above this many dimensions so little is left of the int32 sums for a query's integers that they are no
/// use.
constexpr std::size_t kLargestIntegerDim = std::size_t{1} << 20;

/// Whether the query has integers: its length is a number of at most kLargestNorm, and dim at most
/// kLargestIntegerDim.
bool has_integers(const float* query, std::size_t dim);

/// A query in integers: q = scale * integers + f. Writes these (dim of them), as wide as int32 sums with int8
/// codes allow.
CodedQuery integer_query(const float* query, std::size_t dim, std::int16_t* integers);

}  // namespace rag_infer
