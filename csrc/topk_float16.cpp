#include "topk_float16.hpp"

#include "certified_search.hpp"

namespace rag_infer {

void topk_float16(const HalfRows& halves, const float* vectors, std::size_t num_rows, const float* queries,
                  std::size_t num_queries, std::size_t dim, std::size_t k, const bool* mask,
                  std::size_t threads, float* scores, std::int64_t* rows, std::int64_t* rescored) {
    const CertifiedSearch<HalfCodes> search(halves, vectors, num_rows, dim, k, mask, threads);
    search.run(queries, num_queries, scores, rows, rescored);
}

}  // namespace rag_infer
