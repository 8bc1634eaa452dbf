#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace rag_infer {

/// Four floats in a NEON register of an aarch64 processor. See ScalarVector for what each operation does.
struct NeonVector {
    static constexpr std::size_t kWidth = 4;
    // Sixteen sums, four rows and a query out of thirty-two registers.
    static constexpr std::size_t kQueryTile = 4;
    static constexpr std::size_t kRowTile = 4;
    static constexpr std::size_t kRowTileOneQuery = 8;

    using Floats = float32x4_t;

    static Floats set(float value) { return vdupq_n_f32(value); }

    static Floats load(const float* from) { return vld1q_f32(from); }

    static Floats load_partial(const float* from, std::size_t count, float fill) {
        float lanes[kWidth] = {fill, fill, fill, fill};
        std::memcpy(lanes, from, count * sizeof(float));
        return vld1q_f32(lanes);
    }

    static Floats load(const std::uint16_t* from) {
        return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
    }

    static Floats load_partial(const std::uint16_t* from, std::size_t count, float fill) {
        std::uint16_t halves[kWidth] = {};
        std::memcpy(halves, from, count * sizeof(std::uint16_t));
        float lanes[kWidth];
        vst1q_f32(lanes, load(halves));
        return load_partial(lanes, count, fill);
    }

    static void store(float* to, Floats a) { vst1q_f32(to, a); }

    static Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }

    static Floats sub(Floats a, Floats b) { return vsubq_f32(a, b); }

    static Floats mul(Floats a, Floats b) { return vmulq_f32(a, b); }

    static Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }

    // Not vmaxq, which gives NaN where either is: `b` is wanted then.
    static Floats max(Floats a, Floats b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }

    static Floats round(Floats a) { return vrndnq_f32(a); }

    static Floats power_of_two(Floats n) {
        const int32x4_t biased = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
        return vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
    }

    static Floats split(Floats x, Floats* exponent) {
        const int32x4_t root_half = vdupq_n_s32(0x3F3504F3);
        const int32x4_t bits = vsubq_s32(vreinterpretq_s32_f32(x), root_half);
        *exponent = vcvtq_f32_s32(vshrq_n_s32(bits, 23));
        const int32x4_t fraction = vandq_s32(bits, vdupq_n_s32(0x007FFFFF));
        return vreinterpretq_f32_s32(vaddq_s32(fraction, root_half));
    }

    static Floats where_equal(Floats x, Floats y, Floats then, Floats otherwise) {
        return vbslq_f32(vceqq_f32(x, y), then, otherwise);
    }

    static bool any_greater(Floats a, Floats b) { return vmaxvq_u32(vcgtq_f32(a, b)) != 0; }

    static float sum(Floats a) { return vaddvq_f32(a); }

    static float largest(Floats a) { return vmaxvq_f32(a); }
};

}  // namespace rag_infer
