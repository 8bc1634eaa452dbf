#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace rag_infer {

/// A value and where it stands (a row or a token).
struct Scored {
    float value;
    std::int64_t index;
};

/// The order of every result: larger values first, equal values by lower index.
inline bool better(const Scored& a, const Scored& b) {
    return a.value != b.value ? a.value > b.value : a.index < b.index;
}

/// The `k` best of the values offered so far. Offer by ascending index: an equal value that comes later
/// loses. NaN is never kept.
class Best {
  public:
    explicit Best(std::size_t k) : k_(k) {}

    bool full() const { return heap_.size() == k_; }

    /// No value below or equal to this one would be kept. NaN-free; minus infinity does not say "empty",
    /// `full` does.
    float threshold() const { return full() ? heap_.front().value : -std::numeric_limits<float>::infinity(); }

    void offer(float value, std::int64_t index) {
        if (value != value) return;
        if (!full()) {
            heap_.push_back({value, index});
            std::push_heap(heap_.begin(), heap_.end(), better);
        } else if (value > heap_.front().value) {
            std::pop_heap(heap_.begin(), heap_.end(), better);
            heap_.back() = {value, index};
            std::push_heap(heap_.begin(), heap_.end(), better);
        }
    }

    const std::vector<Scored>& unsorted() const { return heap_; }

  private:
    std::size_t k_;
    std::vector<Scored> heap_;  // the worst of the kept at the front
};

/// Writes the `k` best of several collections, best first; what is missing becomes (minus infinity, -1).
inline void write_best(const Best* parts, std::size_t num_parts, std::size_t stride, std::size_t k,
                       float* values, std::int64_t* indices) {
    std::vector<Scored> all;
    for (std::size_t part = 0; part < num_parts; ++part) {
        const std::vector<Scored>& kept = parts[part * stride].unsorted();
        all.insert(all.end(), kept.begin(), kept.end());
    }
    const std::size_t found = std::min(k, all.size());
    std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(found), all.end(), better);
    for (std::size_t i = 0; i < found; ++i) {
        values[i] = all[i].value;
        indices[i] = all[i].index;
    }
    std::fill(values + found, values + k, -std::numeric_limits<float>::infinity());
    std::fill(indices + found, indices + k, std::int64_t{-1});
}

}  // namespace rag_infer
