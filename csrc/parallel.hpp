#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace rag_infer {

/// Number of ranges `parallel_ranges` makes: at most `threads`, and none smaller than `smallest` items,
/// because starting a thread costs as much as tens of microseconds of work.
inline std::size_t num_ranges(std::size_t count, std::size_t smallest, std::size_t threads) {
    return std::max<std::size_t>(1, std::min(threads, count / std::max<std::size_t>(1, smallest)));
}

/// Calls `work(range, begin, end)` for `ranges` (perhaps no) contiguous pieces of [0, count), each in a
/// thread of its own but the last, which runs in the caller. The first exception is rethrown when all have
/// ended.
template <typename Work>
void parallel_ranges(std::size_t count, std::size_t ranges, const Work& work) {
    std::exception_ptr failure;
    std::mutex failure_mutex;
    const auto run = [&](std::size_t range) {
        try {
            work(range, count * range / ranges, count * (range + 1) / ranges);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(failure_mutex);
            if (!failure) failure = std::current_exception();
        }
    };
    std::vector<std::thread> started;
    started.reserve(ranges);
    std::size_t range = 0;
    try {
        for (; range + 1 < ranges; ++range) started.emplace_back(run, range);
    } catch (const std::system_error&) {
        // No more threads to be had: the caller does the rest itself.
    }
    for (; range < ranges; ++range) run(range);
    for (std::thread& thread : started) thread.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace rag_infer
