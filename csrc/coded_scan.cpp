#include "coded_scan.hpp"

#include <algorithm>
#include <functional>
#include <limits>

namespace rag_infer {
namespace {

// Rows whose products are computed before any is looked at. A multiple of every level's tile of rows.
constexpr std::size_t kBlockRows = 240;

/// The k-th best lower bound of all parts; minus infinity where there are fewer.
float kth_lower(const Collector* parts, std::size_t num_parts, std::size_t stride, std::size_t k) {
    std::vector<float> lower;
    for (std::size_t part = 0; part < num_parts; ++part) {
        for (const Scored& kept : parts[part * stride].lower.unsorted()) lower.push_back(kept.value);
    }
    if (lower.size() < k) return -std::numeric_limits<float>::infinity();
    const auto kth = lower.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(lower.begin(), kth, lower.end(), std::greater<float>());
    return *kth;
}

}  // namespace

/// The rows of a block: where their codes are, and copies of what goes with them, side by side.
template <class Codes>
struct CodedScan<Codes>::Block {
    std::size_t size = 0;
    const typename Codes::Code* codes[kBlockRows];
    std::int64_t numbers[kBlockRows];
    double scales[kBlockRows];
    double errors[kBlockRows];
    double norms[kBlockRows];
};

template <class Codes>
void CodedScan<Codes>::add(const float* query) {
    const std::size_t before = words_.size();
    words_.resize(before + dim_);
    queries_.push_back(Codes::make(query, dim_, words_.data() + before));
}

template <class Codes>
void CodedScan<Codes>::run(std::size_t begin, std::size_t end, Collector* collectors) const {
    std::vector<typename Codes::Product> products(kBlockRows * queries_.size());
    const Leaves& leaves = current_leaves();
    Block block;
    while (begin < end) {
        begin = fill(begin, end, &block);
        (leaves.*Codes::kProducts)(block.codes, block.size, words_.data(), queries_.size(), dim_,
                                   products.data());
        for (std::size_t q = 0; q < queries_.size(); ++q) {
            offer(block, products.data() + q * block.size, queries_[q], &collectors[q]);
        }
    }
}

/// Takes the next rows; returns the first that is left.
template <class Codes>
std::size_t CodedScan<Codes>::fill(std::size_t row, std::size_t end, Block* block) const {
    std::size_t size = 0;
    for (; row < end && size < kBlockRows; ++row) {
        if (mask_ != nullptr && !mask_[row]) continue;
        block->codes[size] = rows_.codes + row * dim_;
        block->numbers[size] = static_cast<std::int64_t>(row);
        block->scales[size] = rows_.scales[row];
        block->errors[size] = rows_.errors[row];
        block->norms[size++] = rows_.norms[row];
    }
    block->size = size;
    return row;
}

template <class Codes>
void CodedScan<Codes>::offer(const Block& block, const typename Codes::Product* products,
                             const CodedQuery& query, Collector* collector) {
    const auto estimate = [&](std::size_t i) { return products[i] * (block.scales[i] * query.scale); };
    const auto bound = [&](std::size_t i) {
        return block.errors[i] * query.per_error + block.norms[i] * query.per_norm + query.constant;
    };
    const double threshold = collector->lower.threshold();
    double upper[kBlockRows];
    // NaN says that nothing is known (an infinite error, a query of zeros): it is not below any threshold.
    std::int64_t reaching = 0;
    for (std::size_t i = 0; i < block.size; ++i) {
        upper[i] = estimate(i) + bound(i);
        reaching += upper[i] < threshold ? 0 : 1;
    }
    if (reaching == 0) return;
    for (std::size_t i = 0; i < block.size; ++i) {
        if (upper[i] < static_cast<double>(collector->lower.threshold())) continue;
        collector->within.push_back({static_cast<float>(upper[i]), block.numbers[i]});
        collector->lower.offer(static_cast<float>(estimate(i) - bound(i)), block.numbers[i]);
    }
}

template class CodedScan<IntegerCodes>;
template class CodedScan<HalfCodes>;

std::vector<std::int64_t> candidates(const Collector* parts, std::size_t num_parts, std::size_t stride,
                                     std::size_t k) {
    std::vector<std::int64_t> rows;
    const float threshold = kth_lower(parts, num_parts, stride, k);
    for (std::size_t part = 0; part < num_parts; ++part) {
        for (const Scored& within : parts[part * stride].within) {
            if (!(within.value < threshold)) rows.push_back(within.index);
        }
    }
    std::sort(rows.begin(), rows.end());
    return rows;
}

}  // namespace rag_infer
