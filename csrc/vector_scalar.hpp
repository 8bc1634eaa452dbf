#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "half_bits.hpp"

namespace rag_infer {

/// Eight floats at once without any instruction set: the operations that the other vector_*.hpp have as one
/// or two instructions. What each does is said here and holds for all of them.
struct ScalarVector {
    static constexpr std::size_t kWidth = 8;
    static constexpr std::size_t kQueryTile = 2;
    static constexpr std::size_t kRowTile = 2;
    static constexpr std::size_t kRowTileOneQuery = 2;

    struct Floats {
        float lane[kWidth];
    };

    static Floats set(float value) {
        Floats out;
        for (float& lane : out.lane) lane = value;
        return out;
    }

    static Floats load(const float* from) {
        Floats out;
        std::memcpy(out.lane, from, sizeof(out.lane));
        return out;
    }

    /// The first `count` (below kWidth) from memory, `fill` in the others; reads nothing beyond.
    static Floats load_partial(const float* from, std::size_t count, float fill) {
        Floats out = set(fill);
        std::memcpy(out.lane, from, count * sizeof(float));
        return out;
    }

    /// The same of the bits of float16, converted exactly.
    static Floats load(const std::uint16_t* from) {
        Floats out;
        for (std::size_t i = 0; i < kWidth; ++i) out.lane[i] = half_to_float(from[i]);
        return out;
    }

    static Floats load_partial(const std::uint16_t* from, std::size_t count, float fill) {
        Floats out = set(fill);
        for (std::size_t i = 0; i < count; ++i) out.lane[i] = half_to_float(from[i]);
        return out;
    }

    static void store(float* to, Floats a) { std::memcpy(to, a.lane, sizeof(a.lane)); }

    static Floats add(Floats a, Floats b) {
        for (std::size_t i = 0; i < kWidth; ++i) a.lane[i] += b.lane[i];
        return a;
    }

    static Floats sub(Floats a, Floats b) {
        for (std::size_t i = 0; i < kWidth; ++i) a.lane[i] -= b.lane[i];
        return a;
    }

    static Floats mul(Floats a, Floats b) {
        for (std::size_t i = 0; i < kWidth; ++i) a.lane[i] *= b.lane[i];
        return a;
    }

    /// a * b + c, rounded once where the hardware can and twice here.
    static Floats fma(Floats a, Floats b, Floats c) {
        for (std::size_t i = 0; i < kWidth; ++i) a.lane[i] = a.lane[i] * b.lane[i] + c.lane[i];
        return a;
    }

    /// The larger; `b` where either is NaN.
    static Floats max(Floats a, Floats b) {
        for (std::size_t i = 0; i < kWidth; ++i) a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
        return a;
    }

    /// The nearest integer, halves to even, for |a| below 2^22.
    static Floats round(Floats a) {
        constexpr float kShift = 12582912.0F;  // 1.5 * 2^23: adding it leaves no bits for a fraction
        for (float& lane : a.lane) lane = (lane + kShift) - kShift;
        return a;
    }

    /// 2^n for an integer n in [-127, 127]; -127 gives 0. For NaN, anything.
    static Floats power_of_two(Floats n) {
        constexpr float kShift = 12582912.0F;
        for (float& lane : n.lane) {
            const float shifted = lane + kShift;
            std::uint32_t bits;
            std::memcpy(&bits, &shifted, sizeof(bits));
            bits = (bits + 127U) << 23U;  // the low bits of `shifted` are n in two's complement
            std::memcpy(&lane, &bits, sizeof(lane));
        }
        return n;
    }

    /// x = mantissa * 2^exponent with the mantissa (returned) in [sqrt(1/2), sqrt(2)), for normal positive x.
    static Floats split(Floats x, Floats* exponent) {
        constexpr std::uint32_t kRootHalf = 0x3F3504F3U;
        for (std::size_t i = 0; i < kWidth; ++i) {
            std::uint32_t bits;
            std::memcpy(&bits, &x.lane[i], sizeof(bits));
            bits -= kRootHalf;
            exponent->lane[i] = static_cast<float>(static_cast<std::int32_t>(bits) >> 23);
            bits = (bits & 0x007FFFFFU) + kRootHalf;
            std::memcpy(&x.lane[i], &bits, sizeof(bits));
        }
        return x;
    }

    /// `then` where x equals y, else `otherwise`.
    static Floats where_equal(Floats x, Floats y, Floats then, Floats otherwise) {
        for (std::size_t i = 0; i < kWidth; ++i) {
            if (x.lane[i] == y.lane[i]) otherwise.lane[i] = then.lane[i];
        }
        return otherwise;
    }

    static bool any_greater(Floats a, Floats b) {
        bool any = false;
        for (std::size_t i = 0; i < kWidth; ++i) any |= a.lane[i] > b.lane[i];
        return any;
    }

    static float sum(Floats a) {
        return ((a.lane[0] + a.lane[4]) + (a.lane[2] + a.lane[6])) +
               ((a.lane[1] + a.lane[5]) + (a.lane[3] + a.lane[7]));
    }

    /// The largest lane, none being NaN.
    static float largest(Floats a) {
        float best = a.lane[0];
        for (const float lane : a.lane) best = lane > best ? lane : best;
        return best;
    }
};

}  // namespace rag_infer
