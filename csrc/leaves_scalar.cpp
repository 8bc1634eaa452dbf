#define RAG_INFER_TARGET

#include "inner_products.hpp"
#include "integer_products.hpp"
#include "integers_scalar.hpp"
#include "leaves.hpp"
#include "marginal.hpp"
#include "vector_scalar.hpp"

namespace rag_infer {

const Leaves& scalar_leaves() {
    static constexpr Leaves kLeaves = {
        inner_products<ScalarVector, float>, inner_products<ScalarVector, std::uint16_t>,
        integer_products<ScalarIntegers>,    row_normaliser<ScalarVector>,
        marginal_log_probs<ScalarVector>,    next_candidates<ScalarVector>};
    return kLeaves;
}

}  // namespace rag_infer
