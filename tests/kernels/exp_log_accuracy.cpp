// Prints how far vector_exp and vector_log are from the exact values, for the vector type it is compiled
// with. test_kernels_exp_log.py compiles it once for each instruction level.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>

#include VECTOR_HEADER
#include "exp_log.hpp"

namespace {

using Vector = rag_infer::VECTOR;
using Function = void (*)(const float*, float*);

RAG_INFER_TARGET void exp_lanes(const float* in, float* out) {
    Vector::store(out, rag_infer::vector_exp<Vector>(Vector::load(in)));
}

RAG_INFER_TARGET void log_lanes(const float* in, float* out) {
    Vector::store(out, rag_infer::vector_log<Vector>(Vector::load(in)));
}

float from_bits(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

float apply(Function function, float x) {
    float in[Vector::kWidth];
    float out[Vector::kWidth];
    for (float& lane : in) lane = x;
    function(in, out);
    for (const float lane : out) {
        if (std::memcmp(&lane, &out[0], sizeof(float)) != 0) return std::numeric_limits<float>::quiet_NaN();
    }
    return out[0];
}

/// Largest error in units in the last place of `exact`, over every `step`-th float between the bit patterns.
double largest_error(Function function, double (*exact)(double), std::uint32_t from, std::uint32_t to,
                     std::uint32_t step) {
    double worst = 0.0;
    for (std::uint64_t bits = from; bits <= to; bits += step) {
        const float x = from_bits(static_cast<std::uint32_t>(bits));
        const double wanted = exact(static_cast<double>(x));
        const float rounded = std::fabs(static_cast<float>(wanted));
        const double unit =
            static_cast<double>(std::nextafter(rounded, std::numeric_limits<float>::infinity())) -
            static_cast<double>(rounded);
        const double error = std::fabs(static_cast<double>(apply(function, x)) - wanted) / unit;
        if (!(error <= worst)) worst = error;
    }
    return worst;
}

}  // namespace

int main() {
    constexpr std::uint32_t kStep = 1009;
    const float infinity = std::numeric_limits<float>::infinity();
    // -2^-30 .. -87 and 2^-30 .. 88
    const double exp_negative = largest_error(exp_lanes, std::exp, 0xB0800000U, 0xC2AE0000U, kStep);
    const double exp_positive = largest_error(exp_lanes, std::exp, 0x30800000U, 0x42B00000U, kStep);
    // 1.001 .. the largest float, and the smallest normal .. 0.999
    const double log_above = largest_error(log_lanes, std::log, 0x3F8020C5U, 0x7F7FFFFFU, kStep);
    const double log_below = largest_error(log_lanes, std::log, 0x00800000U, 0x3F7FBE77U, kStep);
    std::printf("{\"exp_negative\": %.3f, \"exp_positive\": %.3f, \"log_above\": %.3f, \"log_below\": %.3f, ",
                exp_negative, exp_positive, log_above, log_below);
    std::printf("\"exp_zero\": %.9g, \"exp_far_below\": [%.9g, %.9g, %.9g], \"exp_nan_is_nan\": %s, ",
                static_cast<double>(apply(exp_lanes, 0.0F)), static_cast<double>(apply(exp_lanes, -88.0F)),
                static_cast<double>(apply(exp_lanes, -1e30F)),
                static_cast<double>(apply(exp_lanes, -infinity)),
                std::isnan(apply(exp_lanes, std::numeric_limits<float>::quiet_NaN())) ? "true" : "false");
    std::printf("\"log_one\": %.9g, \"log_zero_is_minus_infinity\": %s}\n",
                static_cast<double>(apply(log_lanes, 1.0F)),
                apply(log_lanes, 0.0F) == -infinity ? "true" : "false");
    return 0;
}
