#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace rag_infer {

/// Eight floats in an AVX2 register, with fused multiply-add. See ScalarVector for what each operation does.
struct Avx2Vector {
    static constexpr std::size_t kWidth = 8;
    // Twelve sums, three rows and a query fill the sixteen registers.
    static constexpr std::size_t kQueryTile = 4;
    static constexpr std::size_t kRowTile = 3;
    static constexpr std::size_t kRowTileOneQuery = 8;

    using Floats = __m256;

    RAG_INFER_TARGET static Floats set(float value) { return _mm256_set1_ps(value); }

    RAG_INFER_TARGET static Floats load(const float* from) { return _mm256_loadu_ps(from); }

    RAG_INFER_TARGET static Floats load_partial(const float* from, std::size_t count, float fill) {
        const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lanes);
        return _mm256_blendv_ps(set(fill), _mm256_maskload_ps(from, mask), _mm256_castsi256_ps(mask));
    }

    RAG_INFER_TARGET static Floats load(const std::uint16_t* from) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    }

    RAG_INFER_TARGET static Floats load_partial(const std::uint16_t* from, std::size_t count, float fill) {
        std::uint16_t halves[kWidth] = {};
        std::memcpy(halves, from, count * sizeof(std::uint16_t));
        float floats[kWidth];
        _mm256_storeu_ps(floats, load(halves));
        return load_partial(floats, count, fill);
    }

    RAG_INFER_TARGET static void store(float* to, Floats a) { _mm256_storeu_ps(to, a); }

    RAG_INFER_TARGET static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }

    RAG_INFER_TARGET static Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }

    RAG_INFER_TARGET static Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }

    RAG_INFER_TARGET static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

    RAG_INFER_TARGET static Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }

    RAG_INFER_TARGET static Floats round(Floats a) {
        return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }

    RAG_INFER_TARGET static Floats power_of_two(Floats n) {
        const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
    }

    RAG_INFER_TARGET static Floats split(Floats x, Floats* exponent) {
        const __m256i root_half = _mm256_set1_epi32(0x3F3504F3);
        const __m256i bits = _mm256_sub_epi32(_mm256_castps_si256(x), root_half);
        *exponent = _mm256_cvtepi32_ps(_mm256_srai_epi32(bits, 23));
        const __m256i fraction = _mm256_and_si256(bits, _mm256_set1_epi32(0x007FFFFF));
        return _mm256_castsi256_ps(_mm256_add_epi32(fraction, root_half));
    }

    RAG_INFER_TARGET static Floats where_equal(Floats x, Floats y, Floats then, Floats otherwise) {
        return _mm256_blendv_ps(otherwise, then, _mm256_cmp_ps(x, y, _CMP_EQ_OQ));
    }

    RAG_INFER_TARGET static bool any_greater(Floats a, Floats b) {
        return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
    }

    RAG_INFER_TARGET static float sum(Floats a) {
        __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        half = _mm_add_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
    }

    RAG_INFER_TARGET static float largest(Floats a) {
        __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        half = _mm_max_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
    }
};

}  // namespace rag_infer
