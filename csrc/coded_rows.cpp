#include "coded_rows.hpp"

#include <cmath>
#include <limits>

namespace rag_infer {

double length(const float* vector, std::size_t dim) {
    double squares = 0.0;
    for (std::size_t d = 0; d < dim; ++d) squares += static_cast<double>(vector[d]) * vector[d];
    return std::sqrt(squares);
}

float rounded_up(double x) {
    const float nearest = static_cast<float>(x);
    return static_cast<double>(nearest) >= x
               ? nearest
               : std::nextafter(nearest, std::numeric_limits<float>::infinity());
}

}  // namespace rag_infer
