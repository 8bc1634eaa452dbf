#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace rag_infer {

/// Thirty-two words in an AVX-512 register (byte and word instructions). See ScalarIntegers for what each
/// operation does.
struct Avx512Integers {
    static constexpr std::size_t kWidth = 32;
    // Sixteen sums, four rows, a query and its product out of thirty-two registers.
    static constexpr std::size_t kQueryTile = 4;
    static constexpr std::size_t kRowTile = 4;

    using Words = __m512i;
    using Sums = __m512i;

    RAG_INFER_TARGET static Sums zero() { return _mm512_setzero_si512(); }

    RAG_INFER_TARGET static Words load(const std::int16_t* from) { return _mm512_loadu_si512(from); }

    RAG_INFER_TARGET static Words load_codes(const std::int8_t* from) {
        return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }

    RAG_INFER_TARGET static Sums add_products(Words a, Words b, Sums sums) {
        return _mm512_add_epi32(sums, _mm512_madd_epi16(a, b));
    }

    RAG_INFER_TARGET static std::int32_t total(Sums sums) { return _mm512_reduce_add_epi32(sums); }
};

}  // namespace rag_infer
