#include "marginalise.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "best.hpp"
#include "parallel.hpp"

namespace rag_infer {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// Below this many logits a thread costs more than it gains.
constexpr std::size_t kWorkPerThread = std::size_t{1} << 18;
// Tokens that a thread takes at a time.
constexpr std::size_t kPieceTokens = 8192;

void check_log_priors(const float* log_priors, std::size_t num_docs) {
    for (std::size_t z = 0; z < num_docs; ++z) {
        if (!(log_priors[z] < std::numeric_limits<float>::infinity())) {
            throw std::invalid_argument("log_priors[" + std::to_string(z) + "] is " +
                                        std::to_string(log_priors[z]) +
                                        ": expected a number or minus infinity");
        }
    }
}

/// Offers the tokens [begin, end) to `best`.
void offer_tokens(const PassageRow* rows, std::size_t num_rows, std::size_t begin, std::size_t end,
                  std::size_t k, Best* best) {
    const Leaves& leaves = current_leaves();
    float lanes[kMaxLanes];
    // The first k are kept whatever they are; from then on there is a threshold.
    for (const std::size_t filled = begin + std::min(k, end - begin); begin < filled;) {
        const std::size_t count = std::min(kMaxLanes, filled - begin);
        leaves.marginal_log_probs(rows, num_rows, begin, begin + count, lanes);
        for (std::size_t i = 0; i < count; ++i) best->offer(lanes[i], static_cast<std::int64_t>(begin + i));
        begin += count;
    }
    while (begin < end) {
        std::size_t count = 0;
        begin = leaves.next_candidates(rows, num_rows, begin, end, best->threshold(), lanes, &count);
        for (std::size_t i = 0; i < count; ++i) best->offer(lanes[i], static_cast<std::int64_t>(begin + i));
        begin += count;
    }
}

}  // namespace

Marginaliser::Marginaliser(const float* logits, const float* log_priors, std::size_t num_docs,
                           std::size_t num_beams, std::size_t vocab, std::size_t threads)
    : logits_(logits),
      log_priors_(log_priors),
      num_docs_(num_docs),
      num_beams_(num_beams),
      vocab_(vocab),
      threads_(threads),
      normalisers_(num_docs * num_beams),
      rows_(num_docs * num_beams),
      num_rows_(num_beams) {
    check_log_priors(log_priors, num_docs);
    normalise_rows();
    for (std::size_t beam = 0; beam < num_beams; ++beam) {
        PassageRow* next = rows_.data() + beam * num_docs;
        for (std::size_t z = 0; z < num_docs; ++z) {
            const RowNormaliser& row = normalisers_[z * num_beams + beam];
            if (log_priors[z] == kMinusInfinity || row.max == kMinusInfinity) continue;
            const double shift = std::log(row.sum) - static_cast<double>(log_priors[z]);
            *next++ = {logits + (z * num_beams + beam) * vocab, row.max, static_cast<float>(shift)};
        }
        num_rows_[beam] = static_cast<std::size_t>(next - rows_of(beam));
    }
}

void Marginaliser::normalise_rows() {
    const Leaves& leaves = current_leaves();
    const std::size_t count = num_docs_ * num_beams_;
    const std::size_t smallest = kWorkPerThread / std::max<std::size_t>(1, vocab_);
    const std::size_t workers = num_workers(count, smallest, threads_);
    parallel_pieces(count, 1, workers, [&](std::size_t, std::size_t i, std::size_t) {
        if (log_priors_[i / num_beams_] == kMinusInfinity) return;
        normalisers_[i] = leaves.row_normaliser(logits_ + i * vocab_, vocab_);
    });
    for (std::size_t i = 0; i < count; ++i) {
        if (std::isnan(normalisers_[i].sum)) {
            throw std::invalid_argument("logits[" + std::to_string(i / num_beams_) + ", " +
                                        std::to_string(i % num_beams_) +
                                        "] (passage, beam) hold NaN or plus infinity");
        }
    }
}

void Marginaliser::topk(std::size_t k, float* log_probs, std::int64_t* tokens) const {
    const std::size_t kept = std::min(k, vocab_);
    const std::size_t work = vocab_ * num_docs_ * num_beams_;
    const std::size_t workers = num_workers(work, kWorkPerThread, threads_);
    // A beam is one piece unless there are more workers than beams.
    const std::size_t pieces = std::max<std::size_t>(1, workers / std::max<std::size_t>(1, num_beams_));
    std::vector<Best> best(num_beams_ * pieces, Best(kept));
    parallel_pieces(best.size(), 1, workers, [&](std::size_t, std::size_t i, std::size_t) {
        const std::size_t beam = i / pieces;
        const std::size_t piece = i % pieces;
        offer_tokens(rows_of(beam), num_rows_[beam], vocab_ * piece / pieces, vocab_ * (piece + 1) / pieces,
                     kept, &best[i]);
    });
    for (std::size_t beam = 0; beam < num_beams_; ++beam) {
        write_best(&best[beam * pieces], pieces, 1, k, log_probs + beam * k, tokens + beam * k);
    }
}

void Marginaliser::log_probs(float* out) const {
    const Leaves& leaves = current_leaves();
    const std::size_t pieces = (vocab_ + kPieceTokens - 1) / kPieceTokens;
    const std::size_t workers = num_workers(vocab_ * num_docs_ * num_beams_, kWorkPerThread, threads_);
    parallel_pieces(num_beams_ * pieces, 1, workers, [&](std::size_t, std::size_t i, std::size_t) {
        const std::size_t beam = i / pieces;
        const std::size_t begin = i % pieces * kPieceTokens;
        const std::size_t end = std::min(begin + kPieceTokens, vocab_);
        leaves.marginal_log_probs(rows_of(beam), num_rows_[beam], begin, end, out + beam * vocab_ + begin);
    });
}

void Marginaliser::gather(const std::int64_t* tokens, std::size_t num_tokens, float* marginal,
                          float* per_document) const {
    for (std::size_t i = 0; i < num_beams_ * num_tokens; ++i) {
        if (tokens[i] < 0 || static_cast<std::uint64_t>(tokens[i]) >= vocab_) {
            throw std::invalid_argument("tokens[" + std::to_string(i / num_tokens) + ", " +
                                        std::to_string(i % num_tokens) + "] is " + std::to_string(tokens[i]) +
                                        ", outside the vocabulary of " + std::to_string(vocab_));
        }
    }
    const Leaves& leaves = current_leaves();
    std::vector<float> gathered(num_docs_ * num_tokens);
    std::vector<PassageRow> rows(num_docs_);
    for (std::size_t beam = 0; beam < num_beams_; ++beam) {
        const std::int64_t* wanted = tokens + beam * num_tokens;
        for (std::size_t z = 0; z < num_rows_[beam]; ++z) {
            rows[z] = rows_of(beam)[z];
            float* to = gathered.data() + z * num_tokens;
            for (std::size_t i = 0; i < num_tokens; ++i) to[i] = rows[z].logits[wanted[i]];
            rows[z].logits = to;
        }
        leaves.marginal_log_probs(rows.data(), num_rows_[beam], 0, num_tokens, marginal + beam * num_tokens);
        for (std::size_t z = 0; z < num_docs_; ++z) {
            const RowNormaliser& row = normalisers_[z * num_beams_ + beam];
            const float* logits = logits_ + (z * num_beams_ + beam) * vocab_;
            float* to = per_document + (z * num_beams_ + beam) * num_tokens;
            const bool counts = log_priors_[z] != kMinusInfinity && row.max != kMinusInfinity;
            const float log_sum = static_cast<float>(std::log(row.sum));
            for (std::size_t i = 0; i < num_tokens; ++i) {
                to[i] = counts ? (logits[wanted[i]] - row.max) - log_sum : kMinusInfinity;
            }
        }
    }
}

}  // namespace rag_infer
