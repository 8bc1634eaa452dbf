#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "best.hpp"
#include "integer_query.hpp"
#include "quantise.hpp"

namespace rag_infer {

/// What one thread keeps for one query.
struct Collector {
    Best lower;                  // the k best lower bounds
    std::vector<Scored> within;  // the rows whose upper bound reached the k-th of them, and that bound
};

/// The pass over the codes of the rows that take part, for one group of queries: bounds every score from both
/// sides. `mask` may be null.
class IntegerScan {
  public:
    IntegerScan(const QuantisedRows& rows, const bool* mask, std::size_t dim)
        : rows_(rows), mask_(mask), dim_(dim) {}

    /// One more query, of which `has_integers` is true.
    void add(const float* query);

    /// Offers every row in [begin, end) that takes part to the collector of each query.
    void run(std::size_t begin, std::size_t end, Collector* collectors) const;

  private:
    struct Block;

    std::size_t fill(std::size_t row, std::size_t end, Block* block) const;
    static void offer(const Block& block, const std::int32_t* dots, const IntegerQuery& query,
                      Collector* collector);

    QuantisedRows rows_;
    const bool* mask_;
    std::size_t dim_;
    std::vector<std::int16_t> integers_;  // [queries, dim]
    std::vector<IntegerQuery> queries_;
};

/// The rows, ascending, that may be among the `k` best by what `num_parts` collectors, `stride` apart, have
/// kept of one query.
std::vector<std::int64_t> candidates(const Collector* parts, std::size_t num_parts, std::size_t stride,
                                     std::size_t k);

}  // namespace rag_infer
