#pragma once

#include <cstddef>
#include <cstdint>

namespace rag_infer {

/// Maximum and sum of exponentials of one row of logits: its log-sum-exp is `max + log(sum)`.
/// A row of minus infinities (or an empty one) has max minus infinity and sum 0. NaN or plus infinity
/// anywhere makes `sum` NaN.
struct RowNormaliser {
    float max;
    double sum;
};

/// One passage's logits and what turns them into weighted log-probabilities:
/// log p(z) + log p(v|z) = (logits[v] - max) - shift. `max` and `shift` are finite, logits are below plus
/// infinity.
struct PassageRow {
    const float* logits;
    float max;
    float shift;
};

/// At most this many tokens come from one call of `next_candidates`.
constexpr std::size_t kMaxLanes = 16;

/// The functions that exist once for each instruction level. They take plain pointers to any alignment,
/// allocate nothing, and the value they give for one output depends on that output's inputs alone, never on
/// its neighbours or on where it falls in a vector: so a batch equals one at a time, bit for bit.
struct Leaves {
    /// scores[query * num_rows + row] = rows[row] . queries[query]; every row has `dim` floats, and so has
    /// every query.
    void (*inner_products)(const float* const* rows, std::size_t num_rows, const float* queries,
                           std::size_t num_queries, std::size_t dim, float* scores);

    /// scores[query * num_rows + row] = rows[row] . queries[query] where the rows are bits of float16, which
    /// are converted exactly and multiplied as float32.
    void (*half_products)(const std::uint16_t* const* rows, std::size_t num_rows, const float* queries,
                          std::size_t num_queries, std::size_t dim, float* scores);

    /// dots[query * num_rows + row] = rows[row] . queries[query] in integers, the same at every level. For
    /// each query 128 times the sum of its absolute values is below 2^31: then nothing overflows.
    void (*integer_products)(const std::int8_t* const* rows, std::size_t num_rows,
                             const std::int16_t* queries, std::size_t num_queries, std::size_t dim,
                             std::int32_t* dots);

    RowNormaliser (*row_normaliser)(const float* logits, std::size_t vocab);

    /// out[v - begin] = log sum over the rows of exp((logits[v] - max) - shift), for v in [begin, end).
    void (*marginal_log_probs)(const PassageRow* rows, std::size_t num_rows, std::size_t begin,
                               std::size_t end, float* out);

    /// Finds the first tokens at or after `begin` of which one may exceed `threshold`, writes the marginals
    /// of these
    /// (`*count` of them, at most kMaxLanes, equal to those of `marginal_log_probs`) and returns the first's
    /// number; or returns `end` with `*count` 0. Tokens passed over are certain not to exceed the threshold.
    std::size_t (*next_candidates)(const PassageRow* rows, std::size_t num_rows, std::size_t begin,
                                   std::size_t end, float threshold, float* out, std::size_t* count);
};

const Leaves& scalar_leaves();
#if defined(__x86_64__)
const Leaves& avx2_leaves();
const Leaves& avx512_leaves();
#elif defined(__aarch64__)
const Leaves& neon_leaves();
#endif

/// The leaves of the instruction level in use.
const Leaves& current_leaves();

}  // namespace rag_infer
