#pragma once

#include <cstddef>
#include <cstdint>

namespace rag_infer {

/// Integer products without any instruction set: the operations that the other integers_*.hpp have as one or
/// two instructions. What each does is said here and holds for all of them.
struct ScalarIntegers {
    static constexpr std::size_t kWidth = 8;
    static constexpr std::size_t kQueryTile = 2;
    static constexpr std::size_t kRowTile = 1;

    struct Words {
        std::int16_t lane[kWidth];
    };
    struct Sums {
        std::int32_t lane[kWidth];
    };

    static Sums zero() { return {}; }

    static Words load(const std::int16_t* from) {
        Words out;
        for (std::size_t i = 0; i < kWidth; ++i) out.lane[i] = from[i];
        return out;
    }

    /// int8 from memory, each widened to a word.
    static Words load_codes(const std::int8_t* from) {
        Words out;
        for (std::size_t i = 0; i < kWidth; ++i) out.lane[i] = from[i];
        return out;
    }

    /// sums + a * b; which products a lane adds up is the level's own affair.
    static Sums add_products(Words a, Words b, Sums sums) {
        for (std::size_t i = 0; i < kWidth; ++i) {
            sums.lane[i] += static_cast<std::int32_t>(a.lane[i]) * static_cast<std::int32_t>(b.lane[i]);
        }
        return sums;
    }

    static std::int32_t total(Sums sums) {
        std::int32_t out = 0;
        for (const std::int32_t lane : sums.lane) out += lane;
        return out;
    }
};

}  // namespace rag_infer
