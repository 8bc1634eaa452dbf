#pragma once

namespace rag_infer {

/// What turns the product of a row's codes and a query's into bounds. The estimate of the score is scale *
/// the row's scale * that product, and the score that `topk` computes is off it by at most
///
///     error * per_error + norm * per_norm + constant        (see topk_int8.hpp and topk_float16.hpp)
struct CodedQuery {
    double scale;
    double per_error;
    double per_norm;
    double constant;
};

}  // namespace rag_infer
