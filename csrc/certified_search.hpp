#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "best.hpp"
#include "coded_rows.hpp"
#include "coded_scan.hpp"
#include "leaves.hpp"
#include "parallel.hpp"
#include "topk.hpp"

namespace rag_infer {

/// Exact search by a pass over codes and a look at the few float32 rows that may be among the best: the work
/// of topk_int8.hpp and topk_float16.hpp, which say why nothing is missed. Codes as in CodedScan.
template <class Codes>
class CertifiedSearch {
  public:
    /// As the arguments of `topk`.
    CertifiedSearch(const CodedRows<typename Codes::Code>& coded, const float* vectors, std::size_t num_rows,
                    std::size_t dim, std::size_t k, const bool* mask, std::size_t threads)
        : coded_(coded),
          vectors_(vectors),
          num_rows_(num_rows),
          dim_(dim),
          k_(k),
          kept_(std::max<std::size_t>(1, std::min(k, num_rows))),
          mask_(mask),
          threads_(threads) {}

    void run(const float* queries, std::size_t num_queries, float* scores, std::int64_t* rows,
             std::int64_t* rescored) const {
        std::vector<std::size_t> coded;
        for (std::size_t q = 0; q < num_queries; ++q) {
            if (Codes::can(queries + q * dim_, dim_)) {
                coded.push_back(q);
                continue;
            }
            topk(vectors_, num_rows_, queries + q * dim_, 1, dim_, k_, mask_, threads_, scores + q * k_,
                 rows + q * k_);
            const auto all = static_cast<std::ptrdiff_t>(num_rows_);
            rescored[q] = mask_ == nullptr ? all : std::count(mask_, mask_ + all, true);
        }
        for (std::size_t first = 0; first < coded.size(); first += kQueryGroup) {
            std::vector<const float*> group;
            for (std::size_t i = first; i < std::min(first + kQueryGroup, coded.size()); ++i) {
                group.push_back(queries + coded[i] * dim_);
            }
            const std::vector<std::vector<std::int64_t>> found = scan(group);
            for (std::size_t i = 0; i < group.size(); ++i) {
                const std::size_t q = coded[first + i];
                const Best best = rescore(found[i], group[i]);
                write_best(&best, 1, 1, k_, scores + q * k_, rows + q * k_);
                rescored[q] = static_cast<std::int64_t>(found[i].size());
            }
        }
    }

  private:
    // Rows that a thread takes at a time.
    static constexpr std::size_t kPieceRows = 1920;
    // Queries that share one pass over the codes: with more, they leave the nearest cache.
    static constexpr std::size_t kQueryGroup = 16;
    // Below this many multiplications a thread costs more than it gains.
    static constexpr std::size_t kWorkPerThread = std::size_t{1} << 21;

    /// For each query of a group the rows that may be among the best.
    std::vector<std::vector<std::int64_t>> scan(const std::vector<const float*>& queries) const {
        CodedScan<Codes> scan(coded_, mask_, dim_);
        for (const float* query : queries) scan.add(query);
        const std::size_t group = queries.size();
        const std::size_t work_per_row = std::max<std::size_t>(1, dim_ * group);
        const std::size_t workers = num_workers(num_rows_, kWorkPerThread / work_per_row, threads_);
        const std::size_t piece = workers == 1 ? std::max<std::size_t>(1, num_rows_) : kPieceRows;
        std::vector<Collector> collectors(workers * group, Collector{Best(kept_), {}});
        parallel_pieces(num_rows_, piece, workers,
                        [&](std::size_t worker, std::size_t begin, std::size_t end) {
                            scan.run(begin, end, &collectors[worker * group]);
                        });
        std::vector<std::vector<std::int64_t>> rows;
        for (std::size_t q = 0; q < group; ++q) {
            rows.push_back(candidates(&collectors[q], workers, group, kept_));
        }
        return rows;
    }

    /// The best of some rows (ascending) by their exact scores.
    Best rescore(const std::vector<std::int64_t>& rows, const float* query) const {
        std::vector<const float*> pointers;
        for (const std::int64_t row : rows) {
            pointers.push_back(vectors_ + static_cast<std::size_t>(row) * dim_);
        }
        std::vector<float> scores(rows.size());
        const Leaves& leaves = current_leaves();
        const std::size_t smallest = kWorkPerThread / std::max<std::size_t>(1, dim_);
        const std::size_t workers = num_workers(rows.size(), smallest, threads_);
        parallel_pieces(rows.size(), kPieceRows, workers,
                        [&](std::size_t, std::size_t begin, std::size_t end) {
                            leaves.inner_products(pointers.data() + begin, end - begin, query, 1, dim_,
                                                  scores.data() + begin);
                        });
        Best best(kept_);
        for (std::size_t i = 0; i < rows.size(); ++i) best.offer(scores[i], rows[i]);
        return best;
    }

    CodedRows<typename Codes::Code> coded_;
    const float* vectors_;
    std::size_t num_rows_;
    std::size_t dim_;
    std::size_t k_;
    std::size_t kept_;
    const bool* mask_;
    std::size_t threads_;
};

}  // namespace rag_infer
