#include "rescore.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "leaves.hpp"
#include "parallel.hpp"

namespace rag_infer {
namespace {

// Below this many multiplications a thread costs more than it gains.
constexpr std::size_t kWorkPerThread = std::size_t{1} << 20;
constexpr std::size_t kLineFloats = 16;

/// The rows of one query that are there, and where each stands among those asked for.
struct There {
    std::vector<const float*> pointers;
    std::vector<std::size_t> places;
    std::vector<float> scores;
};

}  // namespace

void rescore(const float* vectors, std::size_t num_rows, const std::int64_t* rows, std::size_t count,
             const float* queries, std::size_t num_queries, std::size_t dim, std::size_t threads,
             float* scores) {
    const std::size_t smallest = kWorkPerThread / std::max<std::size_t>(1, dim * count);
    const std::size_t workers = num_workers(num_queries, smallest, threads);
    const Leaves& leaves = current_leaves();
    const auto one = [&](std::size_t q, There* there) {
        there->pointers.clear();
        there->places.clear();
        for (std::size_t i = 0; i < count; ++i) {
            const std::int64_t row = rows[q * count + i];
            scores[q * count + i] = -std::numeric_limits<float>::infinity();
            if (row < 0 || static_cast<std::size_t>(row) >= num_rows) continue;
            const float* const vector = vectors + static_cast<std::size_t>(row) * dim;
            // The rows lie anywhere: ask for all of them before the first is needed.
            for (std::size_t d = 0; d < dim; d += kLineFloats) __builtin_prefetch(vector + d);
            there->pointers.push_back(vector);
            there->places.push_back(q * count + i);
        }
        there->scores.resize(there->pointers.size());
        leaves.inner_products(there->pointers.data(), there->pointers.size(), queries + q * dim, 1, dim,
                              there->scores.data());
        for (std::size_t i = 0; i < there->places.size(); ++i) scores[there->places[i]] = there->scores[i];
    };
    parallel_pieces(num_queries, 1, workers, [&](std::size_t, std::size_t begin, std::size_t end) {
        There there;
        for (std::size_t q = begin; q < end; ++q) one(q, &there);
    });
}

}  // namespace rag_infer
