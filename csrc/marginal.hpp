// The sums over the vocabulary and over passages. Included where RAG_INFER_TARGET is defined.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

#include "exp_log.hpp"
#include "leaves.hpp"

namespace rag_infer {

/// See Leaves::row_normaliser. One pass over memory: a block's maximum, then its exponentials while it is in
/// the nearest cache. No float sum has more than 33 terms and blocks are added in double, so that small terms
/// are not lost beside large ones: the sum is relatively off by at most 33 * 2^-24, and by what `vector_exp`
/// is.
template <class V>
RAG_INFER_TARGET RowNormaliser row_normaliser(const float* logits, std::size_t vocab) {
    constexpr std::size_t kSums = 4;
    constexpr std::size_t kStep = kSums * V::kWidth;
    constexpr std::size_t kBlock = 32 * kStep;
    constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
    RowNormaliser out{kMinusInfinity, 0.0};
    for (std::size_t begin = 0; begin < vocab; begin += kBlock) {
        const std::size_t end = begin + kBlock < vocab ? begin + kBlock : vocab;
        const std::size_t whole = begin + (end - begin) / V::kWidth * V::kWidth;
        const auto rest = V::load_partial(logits + whole, end - whole, kMinusInfinity);
        auto largest = V::max(rest, V::set(kMinusInfinity));
        for (std::size_t v = begin; v < whole; v += V::kWidth) largest = V::max(V::load(logits + v), largest);
        const float block_max = V::largest(largest);
        if (block_max > out.max) {
            out.sum *= std::exp(static_cast<double>(out.max) - static_cast<double>(block_max));
            out.max = block_max;
        }
        // Where all is minus infinity so far, 0 is taken off instead: exp then gives 0, and NaN for NaN.
        const auto reference = V::set(out.max == kMinusInfinity ? 0.0F : out.max);
        typename V::Floats sums[kSums];
        for (std::size_t i = 0; i < kSums; ++i) sums[i] = V::set(0.0F);
        std::size_t v = begin;
        for (; v + kStep <= whole; v += kStep) {
            for (std::size_t i = 0; i < kSums; ++i) {
                const auto logit = V::load(logits + v + i * V::kWidth);
                sums[i] = V::add(sums[i], vector_exp<V>(V::sub(logit, reference)));
            }
        }
        for (std::size_t i = 0; v < whole; v += V::kWidth, ++i) {
            sums[i] = V::add(sums[i], vector_exp<V>(V::sub(V::load(logits + v), reference)));
        }
        sums[kSums - 1] = V::add(sums[kSums - 1], vector_exp<V>(V::sub(rest, reference)));
        for (std::size_t i = 0; i < kSums; ++i) out.sum += static_cast<double>(V::sum(sums[i]));
    }
    return out;
}

/// The tokens from `v` on, `count` of them (at most kWidth), of one passage, weighted: see PassageRow.
template <class V>
RAG_INFER_TARGET inline typename V::Floats weighted_log_probs(const PassageRow& row, std::size_t v,
                                                              std::size_t count) {
    constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
    const auto logits =
        count == V::kWidth ? V::load(row.logits + v) : V::load_partial(row.logits + v, count, kMinusInfinity);
    return V::sub(V::sub(logits, V::set(row.max)), V::set(row.shift));
}

/// The largest weighted log-probability over the passages.
template <class V>
RAG_INFER_TARGET inline typename V::Floats largest_over_passages(const PassageRow* rows, std::size_t num_rows,
                                                                 std::size_t v, std::size_t count) {
    auto largest = V::set(-std::numeric_limits<float>::infinity());
    for (std::size_t z = 0; z < num_rows; ++z) {
        largest = V::max(weighted_log_probs<V>(rows[z], v, count), largest);
    }
    return largest;
}

/// Log-sum-exp over the passages, `largest` being their maximum. In log space throughout, so that nothing
/// underflows.
template <class V>
RAG_INFER_TARGET inline typename V::Floats marginal(const PassageRow* rows, std::size_t num_rows,
                                                    std::size_t v, std::size_t count,
                                                    typename V::Floats largest) {
    const auto minus_infinity = V::set(-std::numeric_limits<float>::infinity());
    const auto reference = V::where_equal(largest, minus_infinity, V::set(0.0F), largest);
    auto sum = V::set(0.0F);
    for (std::size_t z = 0; z < num_rows; ++z) {
        sum = V::add(sum, vector_exp<V>(V::sub(weighted_log_probs<V>(rows[z], v, count), reference)));
    }
    return V::add(reference, vector_log<V>(sum));
}

/// See Leaves::marginal_log_probs.
template <class V>
RAG_INFER_TARGET void marginal_log_probs(const PassageRow* rows, std::size_t num_rows, std::size_t begin,
                                         std::size_t end, float* out) {
    std::size_t v = begin;
    for (; v + V::kWidth <= end; v += V::kWidth) {
        const auto largest = largest_over_passages<V>(rows, num_rows, v, V::kWidth);
        V::store(out + (v - begin), marginal<V>(rows, num_rows, v, V::kWidth, largest));
    }
    if (v < end) {
        float lanes[V::kWidth];
        const auto largest = largest_over_passages<V>(rows, num_rows, v, end - v);
        V::store(lanes, marginal<V>(rows, num_rows, v, end - v, largest));
        for (std::size_t i = 0; v + i < end; ++i) out[v - begin + i] = lanes[i];
    }
}

/// See Leaves::next_candidates. A sum of n terms is at most n times its largest, so a token whose largest
/// term lies more than log(n) below the threshold is passed over without an exponential. Rounding is monotone
/// and the slack exceeds the error of `vector_log`, so the computed marginal of such a token is at most the
/// threshold, too.
template <class V>
RAG_INFER_TARGET std::size_t next_candidates(const PassageRow* rows, std::size_t num_rows, std::size_t begin,
                                             std::size_t end, float threshold, float* out,
                                             std::size_t* count) {
    static_assert(V::kWidth <= kMaxLanes, "out has room for kMaxLanes values");
    constexpr float kSlack = 1e-4F;
    const auto headroom = V::set(std::log(static_cast<float>(num_rows)) * (1.0F + kSlack) + kSlack);
    for (std::size_t v = begin; v < end; v += V::kWidth) {
        const std::size_t here = end - v < V::kWidth ? end - v : V::kWidth;
        const auto largest = largest_over_passages<V>(rows, num_rows, v, here);
        if (V::any_greater(V::add(largest, headroom), V::set(threshold))) {
            V::store(out, marginal<V>(rows, num_rows, v, here, largest));
            *count = here;
            return v;
        }
    }
    *count = 0;
    return end;
}

}  // namespace rag_infer
