#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

namespace rag_infer {

/// Eight words in a NEON register. See ScalarIntegers for what each operation does.
struct NeonIntegers {
    static constexpr std::size_t kWidth = 8;
    // Sixteen sums, four rows and a query out of thirty-two registers.
    static constexpr std::size_t kQueryTile = 4;
    static constexpr std::size_t kRowTile = 4;

    using Words = int16x8_t;
    using Sums = int32x4_t;

    static Sums zero() { return vdupq_n_s32(0); }

    static Words load(const std::int16_t* from) { return vld1q_s16(from); }

    static Words load_codes(const std::int8_t* from) { return vmovl_s8(vld1_s8(from)); }

    static Sums add_products(Words a, Words b, Sums sums) {
        return vmlal_high_s16(vmlal_s16(sums, vget_low_s16(a), vget_low_s16(b)), a, b);
    }

    static std::int32_t total(Sums sums) { return vaddvq_s32(sums); }
};

}  // namespace rag_infer
