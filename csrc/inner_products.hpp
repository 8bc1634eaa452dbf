// Inner products of a few rows with a few queries. Included where RAG_INFER_TARGET is defined.
#pragma once

#include <cstddef>

namespace rag_infer {

/// `kRows` x `kQueries` inner products in registers. Each pair has one vector accumulator that goes along the
/// dimension in the same order for every tile shape: a score does not depend on what else is computed with
/// it.
template <class V, std::size_t kRows, std::size_t kQueries>
RAG_INFER_TARGET inline void inner_product_tile(const float* const* rows, std::size_t num_rows,
                                                const float* queries, std::size_t dim, float* scores) {
    typename V::Floats sums[kQueries][kRows];
    for (std::size_t q = 0; q < kQueries; ++q) {
        for (std::size_t r = 0; r < kRows; ++r) sums[q][r] = V::set(0.0F);
    }
    std::size_t d = 0;
    for (; d + V::kWidth <= dim; d += V::kWidth) {
        typename V::Floats row[kRows];
        for (std::size_t r = 0; r < kRows; ++r) row[r] = V::load(rows[r] + d);
        for (std::size_t q = 0; q < kQueries; ++q) {
            const auto query = V::load(queries + q * dim + d);
            for (std::size_t r = 0; r < kRows; ++r) sums[q][r] = V::fma(row[r], query, sums[q][r]);
        }
    }
    if (d < dim) {
        for (std::size_t q = 0; q < kQueries; ++q) {
            const auto query = V::load_partial(queries + q * dim + d, dim - d, 0.0F);
            for (std::size_t r = 0; r < kRows; ++r) {
                sums[q][r] = V::fma(V::load_partial(rows[r] + d, dim - d, 0.0F), query, sums[q][r]);
            }
        }
    }
    for (std::size_t q = 0; q < kQueries; ++q) {
        for (std::size_t r = 0; r < kRows; ++r) scores[q * num_rows + r] = V::sum(sums[q][r]);
    }
}

/// All rows with `kQueries` queries: tiles of `kRows` rows, then the rest one by one.
template <class V, std::size_t kRows, std::size_t kQueries>
RAG_INFER_TARGET inline void inner_product_strip(const float* const* rows, std::size_t num_rows,
                                                 const float* queries, std::size_t dim, float* scores) {
    std::size_t r = 0;
    for (; r + kRows <= num_rows; r += kRows) {
        inner_product_tile<V, kRows, kQueries>(rows + r, num_rows, queries, dim, scores + r);
    }
    for (; r < num_rows; ++r)
        inner_product_tile<V, 1, kQueries>(rows + r, num_rows, queries, dim, scores + r);
}

/// See Leaves::inner_products.
template <class V>
RAG_INFER_TARGET void inner_products(const float* const* rows, std::size_t num_rows, const float* queries,
                                     std::size_t num_queries, std::size_t dim, float* scores) {
    std::size_t q = 0;
    for (; q + V::kQueryTile <= num_queries; q += V::kQueryTile) {
        inner_product_strip<V, V::kRowTile, V::kQueryTile>(rows, num_rows, queries + q * dim, dim,
                                                           scores + q * num_rows);
    }
    for (; q < num_queries; ++q) {
        inner_product_strip<V, V::kRowTileOneQuery, 1>(rows, num_rows, queries + q * dim, dim,
                                                       scores + q * num_rows);
    }
}

}  // namespace rag_infer
