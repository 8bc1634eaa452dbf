#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace rag_infer {

/// Sixteen floats in an AVX-512 register (foundation instructions alone). See ScalarVector for what each
/// operation does.
struct Avx512Vector {
    static constexpr std::size_t kWidth = 16;
    // Sixteen sums, four rows and a query out of thirty-two registers.
    static constexpr std::size_t kQueryTile = 4;
    static constexpr std::size_t kRowTile = 4;
    static constexpr std::size_t kRowTileOneQuery = 8;

    using Floats = __m512;

    RAG_INFER_TARGET static Floats set(float value) { return _mm512_set1_ps(value); }

    RAG_INFER_TARGET static Floats load(const float* from) { return _mm512_loadu_ps(from); }

    RAG_INFER_TARGET static Floats load_partial(const float* from, std::size_t count, float fill) {
        const __mmask16 mask = static_cast<__mmask16>((1U << count) - 1U);
        return _mm512_mask_loadu_ps(set(fill), mask, from);
    }

    RAG_INFER_TARGET static Floats load(const std::uint16_t* from) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }

    RAG_INFER_TARGET static Floats load_partial(const std::uint16_t* from, std::size_t count, float fill) {
        std::uint16_t halves[kWidth] = {};
        std::memcpy(halves, from, count * sizeof(std::uint16_t));
        const __mmask16 mask = static_cast<__mmask16>((1U << count) - 1U);
        return _mm512_mask_blend_ps(mask, set(fill), load(halves));
    }

    RAG_INFER_TARGET static void store(float* to, Floats a) { _mm512_storeu_ps(to, a); }

    RAG_INFER_TARGET static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }

    RAG_INFER_TARGET static Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }

    RAG_INFER_TARGET static Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }

    RAG_INFER_TARGET static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

    RAG_INFER_TARGET static Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }

    RAG_INFER_TARGET static Floats round(Floats a) {
        return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }

    RAG_INFER_TARGET static Floats power_of_two(Floats n) {
        const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
        return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
    }

    RAG_INFER_TARGET static Floats split(Floats x, Floats* exponent) {
        const __m512i root_half = _mm512_set1_epi32(0x3F3504F3);
        const __m512i bits = _mm512_sub_epi32(_mm512_castps_si512(x), root_half);
        *exponent = _mm512_cvtepi32_ps(_mm512_srai_epi32(bits, 23));
        const __m512i fraction = _mm512_and_si512(bits, _mm512_set1_epi32(0x007FFFFF));
        return _mm512_castsi512_ps(_mm512_add_epi32(fraction, root_half));
    }

    RAG_INFER_TARGET static Floats where_equal(Floats x, Floats y, Floats then, Floats otherwise) {
        return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_EQ_OQ), otherwise, then);
    }

    RAG_INFER_TARGET static bool any_greater(Floats a, Floats b) {
        return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0;
    }

    RAG_INFER_TARGET static float sum(Floats a) { return _mm512_reduce_add_ps(a); }

    RAG_INFER_TARGET static float largest(Floats a) { return _mm512_reduce_max_ps(a); }
};

}  // namespace rag_infer
