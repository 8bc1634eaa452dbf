// Inner products of rows of int8 with queries of int16. Included where RAG_INFER_TARGET is defined.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rag_infer {

/// As Prefetch in inner_products.hpp, for rows of bytes.
struct CodePrefetch {
    const std::int8_t* const* rows;
    std::size_t offset;
    std::size_t stride;
};

constexpr std::size_t kLineCodes = 64;
// How many tiles of rows ahead of the one in work are asked for.
constexpr std::size_t kCodeTilesAhead = 4;

/// `kRows` x `kQueries` products in registers. Integer sums are exact, so their order is free.
template <class V, std::size_t kRows, std::size_t kQueries>
RAG_INFER_TARGET inline void integer_product_tile(const std::int8_t* const* rows, std::size_t num_rows,
                                                  const std::int16_t* queries, std::size_t dim,
                                                  CodePrefetch next, std::int32_t* dots) {
    typename V::Sums sums[kQueries][kRows];
    for (std::size_t q = 0; q < kQueries; ++q) {
        for (std::size_t r = 0; r < kRows; ++r) sums[q][r] = V::zero();
    }
    const std::size_t whole = dim / V::kWidth * V::kWidth;
    for (std::size_t d = 0; d < whole;) {
        if (d >= next.offset) {
            for (std::size_t r = 0; r < kRows; ++r) __builtin_prefetch(next.rows[r] + next.offset);
            next.offset += next.stride;
        }
        // A line at a time: a branch among the sums costs GCC a copy of each.
        for (const std::size_t end = d + kLineCodes < whole ? d + kLineCodes : whole; d < end;
             d += V::kWidth) {
            typename V::Words row[kRows];
            for (std::size_t r = 0; r < kRows; ++r) row[r] = V::load_codes(rows[r] + d);
            for (std::size_t q = 0; q < kQueries; ++q) {
                const auto query = V::load(queries + q * dim + d);
                for (std::size_t r = 0; r < kRows; ++r) {
                    sums[q][r] = V::add_products(row[r], query, sums[q][r]);
                }
            }
        }
    }
    for (std::size_t q = 0; q < kQueries; ++q) {
        for (std::size_t r = 0; r < kRows; ++r) dots[q * num_rows + r] = V::total(sums[q][r]);
    }
    for (std::size_t d = whole; d < dim; ++d) {
        for (std::size_t q = 0; q < kQueries; ++q) {
            for (std::size_t r = 0; r < kRows; ++r) {
                dots[q * num_rows + r] += rows[r][d] * queries[q * dim + d];
            }
        }
    }
}

/// `kRows` rows with all queries: tiles of kQueries, then the rest one by one. `next` may be null.
template <class V, std::size_t kRows, std::size_t kQueries>
RAG_INFER_TARGET inline void integer_product_strip(const std::int8_t* const* rows,
                                                   const std::int8_t* const* next, std::size_t num_rows,
                                                   const std::int16_t* queries, std::size_t num_queries,
                                                   std::size_t dim, std::int32_t* dots) {
    const std::size_t stride = num_queries / kQueries * kLineCodes;
    std::size_t offset = next == nullptr ? dim : 0;
    std::size_t q = 0;
    for (; q + kQueries <= num_queries; q += kQueries) {
        integer_product_tile<V, kRows, kQueries>(rows, num_rows, queries + q * dim, dim,
                                                 {next, offset, stride}, dots + q * num_rows);
        offset += kLineCodes;
    }
    for (; q < num_queries; ++q) {
        integer_product_tile<V, kRows, 1>(rows, num_rows, queries + q * dim, dim, {nullptr, dim, 0},
                                          dots + q * num_rows);
    }
}

/// All rows with all queries, `kRows` rows at a time.
template <class V, std::size_t kRows, std::size_t kQueries>
RAG_INFER_TARGET inline void integer_product_block(const std::int8_t* const* rows, std::size_t num_rows,
                                                   const std::int16_t* queries, std::size_t num_queries,
                                                   std::size_t dim, std::int32_t* dots) {
    std::size_t r = 0;
    for (; r + kRows <= num_rows; r += kRows) {
        const bool more = r + (kCodeTilesAhead + 1) * kRows <= num_rows;
        integer_product_strip<V, kRows, kQueries>(rows + r,
                                                  more ? rows + r + kCodeTilesAhead * kRows : nullptr,
                                                  num_rows, queries, num_queries, dim, dots + r);
    }
    for (; r < num_rows; ++r) {
        integer_product_strip<V, 1, kQueries>(rows + r, nullptr, num_rows, queries, num_queries, dim,
                                              dots + r);
    }
}

/// See Leaves::integer_products. With few queries memory is what takes the time, and it is fastest row by row
/// in its own order.
template <class V>
RAG_INFER_TARGET void integer_products(const std::int8_t* const* rows, std::size_t num_rows,
                                       const std::int16_t* queries, std::size_t num_queries, std::size_t dim,
                                       std::int32_t* dots) {
    if (num_queries < V::kQueryTile) {
        integer_product_block<V, 1, 1>(rows, num_rows, queries, num_queries, dim, dots);
    } else {
        integer_product_block<V, V::kRowTile, V::kQueryTile>(rows, num_rows, queries, num_queries, dim, dots);
    }
}

}  // namespace rag_infer
