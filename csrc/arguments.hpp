#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace rag_infer {

/// `value` where it is at least 1; else std::invalid_argument that names it.
inline std::size_t at_least_one(const char* name, std::int64_t value) {
    if (value < 1)
        throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) +
                                    ", expected at least 1");
    return static_cast<std::size_t>(value);
}

}  // namespace rag_infer
