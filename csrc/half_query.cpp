#include "half_query.hpp"

#include <algorithm>
#include <cmath>

#include "coded_rows.hpp"

namespace rag_infer {

bool has_halves(const float* query, std::size_t dim) {
    return dim <= kLargestHalfDim && length(query, dim) <= kLargestNorm;
}

CodedQuery half_query(const float* query, std::size_t dim, float* scaled) {
    float largest = 0.0F;
    for (std::size_t d = 0; d < dim; ++d) largest = std::max(largest, std::fabs(query[d]));
    const double unit = largest > 0.0F ? std::ldexp(1.0, std::ilogb(largest)) : 0.0;
    const double inverse = unit > 0.0 ? 1.0 / unit : 0.0;
    for (std::size_t d = 0; d < dim; ++d) scaled[d] = static_cast<float>(query[d] * inverse);
    const double norm = length(query, dim);
    const double terms = static_cast<double>(dim) + 16.0;
    // Half of it is for the score that topk computes, half for the estimate.
    const double rounding = terms * 0x1p-22 * norm;
    // The last term: products too small for float32 lose up to 2^-150 each in topk.
    return {unit, norm + rounding, rounding, terms * 0x1p-149};
}

}  // namespace rag_infer
