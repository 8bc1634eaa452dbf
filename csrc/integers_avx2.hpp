#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace rag_infer {

/// Sixteen words in an AVX2 register, their products summed in pairs. See ScalarIntegers for what each
/// operation does.
struct Avx2Integers {
    static constexpr std::size_t kWidth = 16;
    // Eight sums, four rows, a query and its product: fourteen of sixteen registers.
    static constexpr std::size_t kQueryTile = 2;
    static constexpr std::size_t kRowTile = 4;

    using Words = __m256i;
    using Sums = __m256i;

    RAG_INFER_TARGET static Sums zero() { return _mm256_setzero_si256(); }

    RAG_INFER_TARGET static Words load(const std::int16_t* from) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    }

    RAG_INFER_TARGET static Words load_codes(const std::int8_t* from) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    }

    RAG_INFER_TARGET static Sums add_products(Words a, Words b, Sums sums) {
        return _mm256_add_epi32(sums, _mm256_madd_epi16(a, b));
    }

    RAG_INFER_TARGET static std::int32_t total(Sums sums) {
        __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        half = _mm_add_epi32(half, _mm_shuffle_epi32(half, _MM_SHUFFLE(1, 0, 3, 2)));
        half = _mm_add_epi32(half, _mm_shuffle_epi32(half, _MM_SHUFFLE(2, 3, 0, 1)));
        return _mm_cvtsi128_si32(half);
    }
};

}  // namespace rag_infer
