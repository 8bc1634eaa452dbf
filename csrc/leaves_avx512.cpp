#if defined(__x86_64__)

#if defined(__GNUC__) && !defined(__clang__)
// GCC's own header makes "undefined" vectors by reading an uninitialised one, and GCC 12 warns of it (bug
// 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define RAG_INFER_TARGET __attribute__((target("avx512f,avx512bw")))

#include "inner_products.hpp"
#include "integer_products.hpp"
#include "integers_avx512.hpp"
#include "leaves.hpp"
#include "marginal.hpp"
#include "vector_avx512.hpp"

namespace rag_infer {

const Leaves& avx512_leaves() {
    static constexpr Leaves kLeaves = {
        inner_products<Avx512Vector, float>, inner_products<Avx512Vector, std::uint16_t>,
        integer_products<Avx512Integers>,    row_normaliser<Avx512Vector>,
        marginal_log_probs<Avx512Vector>,    next_candidates<Avx512Vector>};
    return kLeaves;
}

}  // namespace rag_infer

#endif
