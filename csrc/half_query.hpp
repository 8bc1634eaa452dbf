#pragma once

#include <cstddef>

#include "coded_query.hpp"

namespace rag_infer {

/// Above this many dimensions the rounding of a sum of products says too much to tell rows apart.
constexpr std::size_t kLargestHalfDim = std::size_t{1} << 20;

/// Whether the query can be searched by float16 codes: its length is a number of at most kLargestNorm, and
/// dim at most kLargestHalfDim.
bool has_halves(const float* query, std::size_t dim);

/// A query for products with float16 codes. Writes it (dim numbers) divided by the power of two that leaves
/// its largest component in [1, 2): neither rows nor query are then so small that their products underflow.
CodedQuery half_query(const float* query, std::size_t dim, float* scaled);

}  // namespace rag_infer
