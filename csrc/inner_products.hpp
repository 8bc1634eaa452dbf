// Inner products of a few rows with a few queries. Included where RAG_INFER_TARGET is defined.
#pragma once

#include <cstddef>

namespace rag_infer {

/// Which cache lines of the rows that come next a tile asks from memory while it computes: every `stride`
/// components from `offset` on, evenly over the tile, because the processor can wait for a score or two of
/// lines at once, not more.
template <class Row>
struct Prefetch {
    const Row* const* rows;
    std::size_t offset;
    std::size_t stride;
};

template <class Row>
constexpr std::size_t kLineComponents = 64 / sizeof(Row);
// How many tiles of rows ahead of the one in work are asked for.
constexpr std::size_t kTilesAhead = 2;

/// `kRows` x `kQueries` inner products in registers. Each pair has one vector accumulator that goes along the
/// dimension in the same order for every tile shape: a score does not depend on what else is computed with
/// it.
template <class V, std::size_t kRows, std::size_t kQueries, class Row>
RAG_INFER_TARGET inline void inner_product_tile(const Row* const* rows, std::size_t num_rows,
                                                const float* queries, std::size_t dim, Prefetch<Row> next,
                                                float* scores) {
    typename V::Floats sums[kQueries][kRows];
    for (std::size_t q = 0; q < kQueries; ++q) {
        for (std::size_t r = 0; r < kRows; ++r) sums[q][r] = V::set(0.0F);
    }
    std::size_t d = 0;
    for (; d + V::kWidth <= dim; d += V::kWidth) {
        if (d >= next.offset) {
            for (std::size_t r = 0; r < kRows; ++r) __builtin_prefetch(next.rows[r] + next.offset);
            next.offset += next.stride;
        }
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

/// `kRows` rows with all queries: tiles of kQueries, then the rest one by one. The rows stay in the nearest
/// cache meanwhile. `next` may be null.
template <class V, std::size_t kRows, std::size_t kQueries, class Row>
RAG_INFER_TARGET inline void inner_product_strip(const Row* const* rows, const Row* const* next,
                                                 std::size_t num_rows, const float* queries,
                                                 std::size_t num_queries, std::size_t dim, float* scores) {
    const std::size_t stride = num_queries / kQueries * kLineComponents<Row>;
    std::size_t offset = next == nullptr ? dim : 0;
    std::size_t q = 0;
    for (; q + kQueries <= num_queries; q += kQueries) {
        inner_product_tile<V, kRows, kQueries, Row>(rows, num_rows, queries + q * dim, dim,
                                                    {next, offset, stride}, scores + q * num_rows);
        offset += kLineComponents<Row>;
    }
    for (; q < num_queries; ++q) {
        inner_product_tile<V, kRows, 1, Row>(rows, num_rows, queries + q * dim, dim, {nullptr, dim, 0},
                                             scores + q * num_rows);
    }
}

/// All rows with all queries, `kRows` rows at a time.
template <class V, std::size_t kRows, std::size_t kQueries, class Row>
RAG_INFER_TARGET inline void inner_product_block(const Row* const* rows, std::size_t num_rows,
                                                 const float* queries, std::size_t num_queries,
                                                 std::size_t dim, float* scores) {
    std::size_t r = 0;
    for (; r + kRows <= num_rows; r += kRows) {
        const bool more = r + (kTilesAhead + 1) * kRows <= num_rows;
        inner_product_strip<V, kRows, kQueries, Row>(rows + r,
                                                     more ? rows + r + kTilesAhead * kRows : nullptr,
                                                     num_rows, queries, num_queries, dim, scores + r);
    }
    for (; r < num_rows; ++r) {
        inner_product_strip<V, 1, kQueries, Row>(rows + r, nullptr, num_rows, queries, num_queries, dim,
                                                 scores + r);
    }
}

/// See Leaves::inner_products and Leaves::half_products. Row is float, or std::uint16_t for float16.
template <class V, class Row>
RAG_INFER_TARGET void inner_products(const Row* const* rows, std::size_t num_rows, const float* queries,
                                     std::size_t num_queries, std::size_t dim, float* scores) {
    if (num_queries < V::kQueryTile) {
        inner_product_block<V, V::kRowTileOneQuery, 1>(rows, num_rows, queries, num_queries, dim, scores);
    } else {
        inner_product_block<V, V::kRowTile, V::kQueryTile>(rows, num_rows, queries, num_queries, dim, scores);
    }
}

}  // namespace rag_infer
