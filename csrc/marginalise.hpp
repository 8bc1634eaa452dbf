#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "leaves.hpp"

namespace rag_infer {

/// Sums over passages (Lewis et al. 2020, RAG-Token): for passages z with log-prior s[z] and logits l[z, b,
/// v],
///
///     log p(v | b) = log sum_z exp( s[z] + log_softmax_v(l[z, b])[v] ),
///
/// in log space, so that it holds far below what float32 can hold linearly.
///
/// - Log-priors are used as they are. Minus infinity is weight zero: the passage is skipped, whatever its
/// logits are.
/// - Minus infinity as a logit is an impossible token. A row of nothing else is an empty distribution: it
/// adds nothing to
///   the marginal (which then sums to less than 1), and its own log-probabilities are minus infinity.
/// - A NaN or plus infinity among the logits of a passage with positive weight, or as a log-prior, has no
/// meaning that
///   could be ranked: std::invalid_argument that says where.
/// - No passages, or all weights zero: minus infinity for every token.
/// - Results do not depend on the threads, nor a beam's on the other beams; between instruction levels they
/// differ in
///   the last places.
///
/// The constructor does the part that all results share: every row's log-sum-exp, one pass over the logits
/// [num_docs, num_beams, vocab] (row-major), which must outlive it. `threads` is at least 1 (see
/// arguments.hpp).
class Marginaliser {
  public:
    Marginaliser(const float* logits, const float* log_priors, std::size_t num_docs, std::size_t num_beams,
                 std::size_t vocab, std::size_t threads);

    /// The `k` most probable tokens of every beam, best first, ties by lower token: log_probs and tokens are
    /// [num_beams, k]. Exactly a stable sort of what `log_probs` gives, tokens of probability zero included.
    /// What is missing where k exceeds the vocabulary is (minus infinity, -1).
    void topk(std::size_t k, float* log_probs, std::int64_t* tokens) const;

    /// The marginal log-probability of every token: [num_beams, vocab].
    void log_probs(float* out) const;

    /// Of given tokens [num_beams, num_tokens]: their marginals (equal, bit for bit, to those of
    /// `log_probs`), and under each passage alone, without its prior, [num_docs, num_beams, num_tokens];
    /// minus infinity for skipped passages. Throws std::invalid_argument for a token outside the vocabulary.
    void gather(const std::int64_t* tokens, std::size_t num_tokens, float* marginal,
                float* per_document) const;

  private:
    const PassageRow* rows_of(std::size_t beam) const { return rows_.data() + beam * num_docs_; }
    void normalise_rows();

    const float* logits_;
    const float* log_priors_;
    std::size_t num_docs_;
    std::size_t num_beams_;
    std::size_t vocab_;
    std::size_t threads_;
    std::vector<RowNormaliser> normalisers_;  // [docs, beams]; of skipped passages, unused
    std::vector<PassageRow> rows_;            // [beams, docs]: for each beam, first the passages that count
    std::vector<std::size_t> num_rows_;       // [beams]: how many count
};

}  // namespace rag_infer
