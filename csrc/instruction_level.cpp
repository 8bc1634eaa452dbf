#include "instruction_level.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace rag_infer {
namespace {

std::atomic<Level> level_in_use{Level::scalar};

std::string names(const std::vector<Level>& levels) {
    std::string text;
    for (const Level level : levels) text += (text.empty() ? "" : ", ") + std::string(level_name(level));
    return text;
}

Level level_from_name(const std::string& name) {
    const std::vector<Level> all = {Level::scalar, Level::neon, Level::avx2, Level::avx512};
    for (const Level level : all) {
        if (name == level_name(level)) return level;
    }
    throw std::invalid_argument("unknown instruction level '" + name + "': expected one of " + names(all));
}

}  // namespace

const char* level_name(Level level) {
    switch (level) {
        case Level::neon:
            return "neon";
        case Level::avx2:
            return "avx2";
        case Level::avx512:
            return "avx512";
        case Level::scalar:
            break;
    }
    return "scalar";
}

std::vector<Level> available_levels() {
    std::vector<Level> levels;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) {
        levels.push_back(Level::avx512);
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
        levels.push_back(Level::avx2);
    }
#elif defined(__aarch64__)
    levels.push_back(Level::neon);  // part of the architecture's baseline
#endif
    levels.push_back(Level::scalar);
    return levels;
}

bool has_vnni() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2")) return false;
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl")) return true;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    constexpr unsigned kAvxVnni = 1U << 4;  // which older compilers have no name for
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & kAvxVnni) != 0;
#else
    return false;
#endif
}

Level current_level() {
    return level_in_use.load(std::memory_order_relaxed);
}

void set_level(const std::string& name) {
    const Level wanted = level_from_name(name);
    const std::vector<Level> available = available_levels();
    for (const Level level : available) {
        if (level == wanted) {
            level_in_use.store(level, std::memory_order_relaxed);
            return;
        }
    }
    throw std::invalid_argument("instruction level '" + name +
                                "' is not to be had on this processor, which has " + names(available));
}

void set_level_from_environment() {
    const char* name = std::getenv("RAG_INFER_KERNELS");
    if (name == nullptr || *name == '\0') {
        set_level(level_name(available_levels().front()));
        return;
    }
    try {
        set_level(name);
    } catch (const std::invalid_argument& error) {
        throw std::invalid_argument("RAG_INFER_KERNELS: " + std::string(error.what()));
    }
}

}  // namespace rag_infer
