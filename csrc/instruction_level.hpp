#pragma once

#include <string>
#include <vector>

namespace rag_infer {

/// The instruction sets the leaf functions are written for. `scalar` runs everywhere.
enum class Level { scalar, neon, avx2, avx512 };

const char* level_name(Level level);

/// The levels this processor can run, best first; the last is always `scalar`.
std::vector<Level> available_levels();

/// Whether the processor multiplies 8-bit integers in sums of 32 bits (AVX512-VNNI or AVX-VNNI), whatever
/// level is in use.
bool has_vnni();

/// The level in use.
Level current_level();

/// Uses `name` from now on. Throws std::invalid_argument for a name that is none of the four, or a level the
/// processor (or this build) lacks.
void set_level(const std::string& name);

/// Sets the level that the environment variable RAG_INFER_KERNELS names, or the best where it is unset or
/// empty.
void set_level_from_environment();

}  // namespace rag_infer
