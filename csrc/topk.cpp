#include "topk.hpp"

#include <algorithm>
#include <vector>

#include "best.hpp"
#include "leaves.hpp"
#include "parallel.hpp"

namespace rag_infer {
namespace {

// Rows whose scores are computed before any is looked at. A multiple of every level's tile of rows.
constexpr std::size_t kBlockRows = 240;
// Rows that a thread takes at a time.
constexpr std::size_t kPieceRows = 8 * kBlockRows;
// Queries that share one pass over the data: with more, they would themselves no longer fit the cache.
constexpr std::size_t kQueryGroup = 32;
// Below this many multiplications a thread costs more than it gains.
constexpr std::size_t kWorkPerThread = std::size_t{1} << 20;

/// The rows that take part, in blocks, for one group of queries.
class Scan {
  public:
    Scan(const float* vectors, const float* queries, std::size_t num_queries, std::size_t dim,
         const bool* mask)
        : vectors_(vectors), queries_(queries), num_queries_(num_queries), dim_(dim), mask_(mask) {}

    /// Offers every row in [begin, end) that takes part to the collector of each query.
    void run(std::size_t begin, std::size_t end, Best* best) const {
        std::vector<const float*> pointers(kBlockRows);
        std::vector<std::int64_t> numbers(kBlockRows);
        std::vector<float> scores(kBlockRows * num_queries_);
        const Leaves& leaves = current_leaves();
        for (std::size_t row = begin; row < end;) {
            std::size_t found = 0;
            for (; row < end && found < kBlockRows; ++row) {
                if (mask_ != nullptr && !mask_[row]) continue;
                pointers[found] = vectors_ + row * dim_;
                numbers[found++] = static_cast<std::int64_t>(row);
            }
            leaves.inner_products(pointers.data(), found, queries_, num_queries_, dim_, scores.data());
            for (std::size_t q = 0; q < num_queries_; ++q) {
                offer(scores.data() + q * found, numbers.data(), found, &best[q]);
            }
        }
    }

  private:
    static void offer(const float* scores, const std::int64_t* numbers, std::size_t count, Best* best) {
        std::size_t i = 0;
        for (; i < count && !best->full(); ++i) best->offer(scores[i], numbers[i]);
        const float threshold = best->threshold();
        // Nearly always no score of a block is good enough, and this loop needs no branch to find that out.
        bool any = false;
        for (std::size_t j = i; j < count; ++j) any |= scores[j] > threshold;
        if (!any) return;
        for (; i < count; ++i) {
            if (scores[i] > best->threshold()) best->offer(scores[i], numbers[i]);
        }
    }

    const float* vectors_;
    const float* queries_;
    std::size_t num_queries_;
    std::size_t dim_;
    const bool* mask_;
};

}  // namespace

void topk(const float* vectors, std::size_t num_rows, const float* queries, std::size_t num_queries,
          std::size_t dim, std::size_t k, const bool* mask, std::size_t threads, float* scores,
          std::int64_t* rows) {
    for (std::size_t first = 0; first < num_queries; first += kQueryGroup) {
        const std::size_t group = std::min(kQueryGroup, num_queries - first);
        const Scan scan(vectors, queries + first * dim, group, dim, mask);
        const std::size_t work_per_row = std::max<std::size_t>(1, dim * group);
        const std::size_t workers = num_workers(num_rows, kWorkPerThread / work_per_row, threads);
        const std::size_t piece = workers == 1 ? std::max<std::size_t>(1, num_rows) : kPieceRows;
        std::vector<Best> best(workers * group, Best(std::min(k, num_rows)));
        parallel_pieces(num_rows, piece, workers,
                        [&](std::size_t worker, std::size_t begin, std::size_t end) {
                            scan.run(begin, end, &best[worker * group]);
                        });
        for (std::size_t q = 0; q < group; ++q) {
            write_best(&best[q], workers, group, k, scores + (first + q) * k, rows + (first + q) * k);
        }
    }
}

}  // namespace rag_infer
