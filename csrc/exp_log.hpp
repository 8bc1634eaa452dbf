// Vector exponential and logarithm, for any of the vector_*.hpp. Included where RAG_INFER_TARGET is defined.
#pragma once

#include <limits>

namespace rag_infer {

/// exp(x) for x <= 88, within 2 units in the last place where the result is at least 2^-126, and 0 below
/// about 2^-126. exp(0) is exactly 1; minus infinity gives 0; NaN stays NaN. Larger x than 88 is outside the
/// contract: softmax arguments never exceed 0. Reduction by multiples of log 2 in two parts (Cody and Waite)
/// and the polynomial of Cephes' expf.
template <class V>
RAG_INFER_TARGET inline typename V::Floats vector_exp(typename V::Floats x) {
    x = V::max(V::set(-88.0F), x);  // in this order NaN comes through
    const auto n = V::round(V::mul(x, V::set(1.44269504088896341F)));
    auto r = V::fma(n, V::set(-0.693359375F), x);
    r = V::fma(n, V::set(2.12194440e-4F), r);
    auto p = V::set(1.9875691500e-4F);
    p = V::fma(p, r, V::set(1.3981999507e-3F));
    p = V::fma(p, r, V::set(8.3334519073e-3F));
    p = V::fma(p, r, V::set(4.1665795894e-2F));
    p = V::fma(p, r, V::set(1.6666665459e-1F));
    p = V::fma(p, r, V::set(5.0000001201e-1F));
    p = V::fma(p, V::mul(r, r), V::add(r, V::set(1.0F)));
    return V::mul(p, V::power_of_two(n));
}

/// log(x) for normal positive x within 2 units in the last place (absolutely within 2^-24 near 1), and minus
/// infinity for 0. NaN, infinity, negative and subnormal x are outside the contract. The mantissa is brought
/// into [sqrt(1/2), sqrt(2)); the polynomial is that of Cephes' logf.
template <class V>
RAG_INFER_TARGET inline typename V::Floats vector_log(typename V::Floats x) {
    typename V::Floats exponent;
    const auto r = V::sub(V::split(x, &exponent), V::set(1.0F));
    const auto square = V::mul(r, r);
    auto p = V::set(7.0376836292e-2F);
    p = V::fma(p, r, V::set(-1.1514610310e-1F));
    p = V::fma(p, r, V::set(1.1676998740e-1F));
    p = V::fma(p, r, V::set(-1.2420140846e-1F));
    p = V::fma(p, r, V::set(1.4249322787e-1F));
    p = V::fma(p, r, V::set(-1.6668057665e-1F));
    p = V::fma(p, r, V::set(2.0000714765e-1F));
    p = V::fma(p, r, V::set(-2.4999993993e-1F));
    p = V::fma(p, r, V::set(3.3333331174e-1F));
    auto y = V::mul(V::mul(p, r), square);
    y = V::fma(exponent, V::set(-2.12194440e-4F), y);
    y = V::fma(square, V::set(-0.5F), y);
    y = V::fma(exponent, V::set(0.693359375F), V::add(r, y));
    const auto minus_infinity = V::set(-std::numeric_limits<float>::infinity());
    return V::where_equal(x, V::set(0.0F), minus_infinity, y);
}

}  // namespace rag_infer
