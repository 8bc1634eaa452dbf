#if defined(__aarch64__)

#define RAG_INFER_TARGET

#include "inner_products.hpp"
#include "integer_products.hpp"
#include "integers_neon.hpp"
#include "leaves.hpp"
#include "marginal.hpp"
#include "vector_neon.hpp"

namespace rag_infer {

const Leaves& neon_leaves() {
    static constexpr Leaves kLeaves = {
        inner_products<NeonVector, float>, inner_products<NeonVector, std::uint16_t>,
        integer_products<NeonIntegers>,    row_normaliser<NeonVector>,
        marginal_log_probs<NeonVector>,    next_candidates<NeonVector>};
    return kLeaves;
}

}  // namespace rag_infer

#endif
