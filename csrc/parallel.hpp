#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace rag_infer {

/// How many of `threads` are worth starting for `count` items when less than `smallest` of them is not worth
/// one: a start costs as much as tens of microseconds of work. At least 1.
inline std::size_t num_workers(std::size_t count, std::size_t smallest, std::size_t threads) {
    return std::max<std::size_t>(1, std::min(threads, count / std::max<std::size_t>(1, smallest)));
}

/// Calls `work(worker, begin, end)` for pieces of [0, count) of at most `piece` items. Workers run at once,
/// the last of them in the caller; each takes the next piece when it has done one, so that a worker whose
/// processor is busy with something else does less. What a worker gets is ascending. The first exception is
/// rethrown when all have ended.
template <typename Work>
void parallel_pieces(std::size_t count, std::size_t piece, std::size_t workers, const Work& work) {
    std::atomic<std::size_t> next{0};
    std::exception_ptr failure;
    std::mutex failure_mutex;
    const auto run = [&](std::size_t worker) {
        try {
            for (std::size_t begin = next.fetch_add(piece); begin < count; begin = next.fetch_add(piece)) {
                work(worker, begin, std::min(begin + piece, count));
            }
        } catch (...) {
            const std::lock_guard<std::mutex> lock(failure_mutex);
            if (!failure) failure = std::current_exception();
        }
    };
    std::vector<std::thread> started;
    started.reserve(workers);
    try {
        while (started.size() + 1 < workers) started.emplace_back(run, started.size());
    } catch (const std::system_error&) {
        // No more threads to be had: those there are do it.
    }
    run(started.size());
    for (std::thread& thread : started) thread.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace rag_infer
