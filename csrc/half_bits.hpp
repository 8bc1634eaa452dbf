#pragma once

#include <cstdint>
#include <cstring>

namespace rag_infer {

/// The number that the bits of a float16 stand for, exactly.
inline float half_to_float(std::uint16_t half) {
    const std::uint32_t sign = (half & 0x8000U) << 16U;
    const std::uint32_t exponent = (half >> 10U) & 0x1FU;
    const std::uint32_t fraction = half & 0x3FFU;
    std::uint32_t bits;
    if (exponent == 0) {
        // A fraction of 2^-24 each, small enough to be exact in float32.
        const float value = static_cast<float>(fraction) * 0x1p-24F;
        std::memcpy(&bits, &value, sizeof(bits));
        bits |= sign;
    } else {
        const std::uint32_t wide = exponent == 31U ? 255U : exponent + 112U;
        bits = sign | (wide << 23U) | (fraction << 13U);
    }
    float out;
    std::memcpy(&out, &bits, sizeof(out));
    return out;
}

/// The bits of the float16 nearest to `value`, halves to even, for |value| of at most 2.
inline std::uint16_t float_to_half(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    const std::uint32_t sign = (bits >> 16U) & 0x8000U;
    bits &= 0x7FFFFFFFU;
    float size;
    std::memcpy(&size, &bits, sizeof(size));
    if (size < 0x1p-14F) {
        // Below the normal float16 the steps are 2^-24: adding a number whose own steps these are rounds so.
        const float shifted = size + 0.5F;
        std::memcpy(&bits, &shifted, sizeof(bits));
        return static_cast<std::uint16_t>(sign | (bits - 0x3F000000U));
    }
    const std::uint32_t rounded = bits + 0xFFFU + ((bits >> 13U) & 1U);
    return static_cast<std::uint16_t>(sign | ((rounded - (112U << 23U)) >> 13U));
}

}  // namespace rag_infer
