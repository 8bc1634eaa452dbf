#if defined(__x86_64__)

#define RAG_INFER_TARGET __attribute__((target("avx2,fma,f16c")))

#include "inner_products.hpp"
#include "integer_products.hpp"
#include "integers_avx2.hpp"
#include "leaves.hpp"
#include "marginal.hpp"
#include "vector_avx2.hpp"

namespace rag_infer {

const Leaves& avx2_leaves() {
    static constexpr Leaves kLeaves = {
        inner_products<Avx2Vector, float>, inner_products<Avx2Vector, std::uint16_t>,
        integer_products<Avx2Integers>,    row_normaliser<Avx2Vector>,
        marginal_log_probs<Avx2Vector>,    next_candidates<Avx2Vector>};
    return kLeaves;
}

}  // namespace rag_infer

#endif
