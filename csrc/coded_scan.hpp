#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "best.hpp"
#include "coded_query.hpp"
#include "coded_rows.hpp"
#include "half_query.hpp"
#include "integer_query.hpp"
#include "leaves.hpp"

namespace rag_infer {

/// int8 codes: what a query is made into, and the products, which are exact.
struct IntegerCodes {
    using Code = std::int8_t;
    using Word = std::int16_t;
    using Product = std::int32_t;

    static bool can(const float* query, std::size_t dim) { return has_integers(query, dim); }
    static CodedQuery make(const float* query, std::size_t dim, Word* words) {
        return integer_query(query, dim, words);
    }
    static constexpr auto kProducts = &Leaves::integer_products;
};

/// float16 codes: the query stays float32, but for a power of two.
struct HalfCodes {
    using Code = std::uint16_t;
    using Word = float;
    using Product = float;

    static bool can(const float* query, std::size_t dim) { return has_halves(query, dim); }
    static CodedQuery make(const float* query, std::size_t dim, Word* words) {
        return half_query(query, dim, words);
    }
    static constexpr auto kProducts = &Leaves::half_products;
};

/// What one thread keeps for one query.
struct Collector {
    Best lower;                  // the k best lower bounds
    std::vector<Scored> within;  // the rows whose upper bound reached the k-th of them, and that bound
};

/// The pass over the codes of the rows that take part, for one group of queries: bounds every score from both
/// sides. `mask` may be null. Codes is IntegerCodes or HalfCodes.
template <class Codes>
class CodedScan {
  public:
    CodedScan(const CodedRows<typename Codes::Code>& rows, const bool* mask, std::size_t dim)
        : rows_(rows), mask_(mask), dim_(dim) {}

    /// One more query, of which `Codes::can` is true.
    void add(const float* query);

    /// Offers every row in [begin, end) that takes part to the collector of each query.
    void run(std::size_t begin, std::size_t end, Collector* collectors) const;

  private:
    struct Block;

    std::size_t fill(std::size_t row, std::size_t end, Block* block) const;
    static void offer(const Block& block, const typename Codes::Product* products, const CodedQuery& query,
                      Collector* collector);

    CodedRows<typename Codes::Code> rows_;
    const bool* mask_;
    std::size_t dim_;
    std::vector<typename Codes::Word> words_;  // [queries, dim]
    std::vector<CodedQuery> queries_;
};

extern template class CodedScan<IntegerCodes>;
extern template class CodedScan<HalfCodes>;

/// The rows, ascending, that may be among the `k` best by what `num_parts` collectors, `stride` apart, have
/// kept of one query.
std::vector<std::int64_t> candidates(const Collector* parts, std::size_t num_parts, std::size_t stride,
                                     std::size_t k);

}  // namespace rag_infer
