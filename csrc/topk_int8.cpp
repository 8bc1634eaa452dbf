#include "topk_int8.hpp"

#include <algorithm>
#include <vector>

#include "best.hpp"
#include "integer_query.hpp"
#include "integer_scan.hpp"
#include "leaves.hpp"
#include "parallel.hpp"
#include "topk.hpp"

namespace rag_infer {
namespace {

// Rows that a thread takes at a time.
constexpr std::size_t kPieceRows = 1920;
// Queries that share one pass over the codes: with more, their integers leave the nearest cache.
constexpr std::size_t kQueryGroup = 16;
// Below this many multiplications a thread costs more than it gains.
constexpr std::size_t kWorkPerThread = std::size_t{1} << 21;

/// The rows of one search, and how they are searched.
struct Int8Search {
    const QuantisedRows& quantised;
    const float* vectors;
    std::size_t num_rows;
    std::size_t dim;
    std::size_t kept;
    const bool* mask;
    std::size_t threads;

    /// For each query of a group the rows that may be among the best.
    std::vector<std::vector<std::int64_t>> scan(const std::vector<const float*>& queries) const {
        IntegerScan scan(quantised, mask, dim);
        for (const float* query : queries) scan.add(query);
        const std::size_t group = queries.size();
        const std::size_t work_per_row = std::max<std::size_t>(1, dim * group);
        const std::size_t workers = num_workers(num_rows, kWorkPerThread / work_per_row, threads);
        const std::size_t piece = workers == 1 ? std::max<std::size_t>(1, num_rows) : kPieceRows;
        std::vector<Collector> collectors(workers * group, Collector{Best(kept), {}});
        parallel_pieces(num_rows, piece, workers,
                        [&](std::size_t worker, std::size_t begin, std::size_t end) {
                            scan.run(begin, end, &collectors[worker * group]);
                        });
        std::vector<std::vector<std::int64_t>> rows;
        for (std::size_t q = 0; q < group; ++q) {
            rows.push_back(candidates(&collectors[q], workers, group, kept));
        }
        return rows;
    }

    /// The best of some rows (ascending) by their exact scores.
    Best rescore(const std::vector<std::int64_t>& rows, const float* query) const {
        std::vector<const float*> pointers;
        for (const std::int64_t row : rows) pointers.push_back(vectors + static_cast<std::size_t>(row) * dim);
        std::vector<float> scores(rows.size());
        const Leaves& leaves = current_leaves();
        const std::size_t smallest = kWorkPerThread / std::max<std::size_t>(1, dim);
        const std::size_t workers = num_workers(rows.size(), smallest, threads);
        parallel_pieces(rows.size(), kPieceRows, workers,
                        [&](std::size_t, std::size_t begin, std::size_t end) {
                            leaves.inner_products(pointers.data() + begin, end - begin, query, 1, dim,
                                                  scores.data() + begin);
                        });
        Best best(kept);
        for (std::size_t i = 0; i < rows.size(); ++i) best.offer(scores[i], rows[i]);
        return best;
    }
};

}  // namespace

void topk_int8(const QuantisedRows& quantised, const float* vectors, std::size_t num_rows,
               const float* queries, std::size_t num_queries, std::size_t dim, std::size_t k,
               const bool* mask, std::size_t threads, float* scores, std::int64_t* rows,
               std::int64_t* rescored) {
    std::vector<std::size_t> with_integers;
    for (std::size_t q = 0; q < num_queries; ++q) {
        if (has_integers(queries + q * dim, dim)) {
            with_integers.push_back(q);
            continue;
        }
        topk(vectors, num_rows, queries + q * dim, 1, dim, k, mask, threads, scores + q * k, rows + q * k);
        const auto all = static_cast<std::ptrdiff_t>(num_rows);
        rescored[q] = mask == nullptr ? all : std::count(mask, mask + all, true);
    }
    const std::size_t kept = std::max<std::size_t>(1, std::min(k, num_rows));
    const Int8Search search{quantised, vectors, num_rows, dim, kept, mask, threads};
    for (std::size_t first = 0; first < with_integers.size(); first += kQueryGroup) {
        std::vector<const float*> group;
        for (std::size_t i = first; i < std::min(first + kQueryGroup, with_integers.size()); ++i) {
            group.push_back(queries + with_integers[i] * dim);
        }
        const std::vector<std::vector<std::int64_t>> found = search.scan(group);
        for (std::size_t i = 0; i < group.size(); ++i) {
            const std::size_t q = with_integers[first + i];
            const Best best = search.rescore(found[i], group[i]);
            write_best(&best, 1, 1, k, scores + q * k, rows + q * k);
            rescored[q] = static_cast<std::int64_t>(found[i].size());
        }
    }
}

}  // namespace rag_infer
