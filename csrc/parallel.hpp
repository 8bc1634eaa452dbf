#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

namespace rag_infer {

/// How many of `threads` are worth starting for `count` items when less than `smallest` of them is not worth
/// one: a start costs as much as tens of microseconds of work. At least 1.
inline std::size_t num_workers(std::size_t count, std::size_t smallest, std::size_t threads) {
    return std::max<std::size_t>(1, std::min(threads, count / std::max<std::size_t>(1, smallest)));
}

/// The processors that this thread may use, less the one it is on. Linux may leave a new thread waiting for
/// milliseconds behind its busy parent while the next processor is idle; a whole search takes 20.
class OtherProcessors {
  public:
#ifdef __linux__
    OtherProcessors() {
        const int here = sched_getcpu();
        known_ = here >= 0 && here < CPU_SETSIZE && sched_getaffinity(0, sizeof(set_), &set_) == 0;
        if (known_) CPU_CLR(here, &set_);
        known_ = known_ && CPU_COUNT(&set_) > 0;
    }

    /// Only a hint: a thread that cannot be moved works where it is.
    void take(std::thread& thread) const {
        if (known_) pthread_setaffinity_np(thread.native_handle(), sizeof(set_), &set_);
    }

  private:
    cpu_set_t set_{};
    bool known_ = false;
#else
    void take(std::thread&) const {}
#endif
};

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
        if (workers > 1) {
            const OtherProcessors others;
            while (started.size() + 1 < workers) {
                started.emplace_back(run, started.size());
                others.take(started.back());
            }
        }
    } catch (const std::system_error&) {
        // No more threads to be had: those there are do it.
    }
    run(started.size());
    for (std::thread& thread : started) thread.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace rag_infer
