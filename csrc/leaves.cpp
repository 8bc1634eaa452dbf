#include "leaves.hpp"

#include "instruction_level.hpp"

namespace rag_infer {

const Leaves& current_leaves() {
    switch (current_level()) {
#if defined(__x86_64__)
        case Level::avx512:
            return avx512_leaves();
        case Level::avx2:
            return avx2_leaves();
#elif defined(__aarch64__)
        case Level::neon:
            return neon_leaves();
#endif
        default:
            return scalar_leaves();
    }
}

}  // namespace rag_infer
