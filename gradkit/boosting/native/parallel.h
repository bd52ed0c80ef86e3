// Work shared out among the threads of XLA's pool.

#ifndef GRADKIT_PARALLEL_H_
#define GRADKIT_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace gradkit {

namespace ffi = xla::ffi;

constexpr int64_t kBlockOfRows = 1 << 13;
constexpr int64_t kAhead = 24;  // examples that are fetched before they are needed

// Runs task(0) to task(count - 1) on the pool and on this thread, which never waits for a task that nobody has begun.
template <typename Task>
void Parallel(ffi::ThreadPool& pool, int64_t count, const Task& task) {
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  if (count <= 1 || pool.num_threads() <= 1) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  auto shared = std::make_shared<Shared>();
  auto work = [shared, count, &task] {  // a helper that comes too late finds nothing left and does not touch the task
    for (int64_t i; (i = shared->next.fetch_add(1)) < count;) {
      task(i);
      if (shared->done.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(shared->mutex);
        shared->all_done.notify_one();
      }
    }
  };
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(decltype(work)(work));
  work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done.load() == count; });
}

inline int64_t NumBlocksOfRows(int64_t n) { return (n + kBlockOfRows - 1) / kBlockOfRows; }

// Runs task(block, begin, end) for each block of rows.
template <typename Task>
void OverRows(ffi::ThreadPool& pool, int64_t n, const Task& task) {
  Parallel(pool, NumBlocksOfRows(n), [&](int64_t block) {
    task(block, block * kBlockOfRows, std::min((block + 1) * kBlockOfRows, n));
  });
}

}  // namespace gradkit

#endif  // GRADKIT_PARALLEL_H_
