#include "pool.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace windlass {
namespace {

// Longer than the time between two kernels of a step and shorter than anyone would notice.
constexpr std::chrono::microseconds kAwake{200};

constexpr int kTurnsAwake = 10000;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

enum State : int { kIdle, kAsleep, kCalled, kRunning };

// Leaves room in L2 for what a thread works with.
constexpr int64_t kMostFetched = 512 << 10;
constexpr int64_t kLine = 64;

struct Job {
  void (*work)(const void* context, int thread);
  const void* context;
  Upcoming upcoming;
  int threads;
  std::atomic<bool>* out_of_memory;  // set when a call of `work` found no memory
};

// Does a thread's part. No other exception comes from a kernel.
void work_on(const Job& job, int thread) {
  try {
    job.work(job.context, thread);
  } catch (const std::bad_alloc&) {
    job.out_of_memory->store(true, std::memory_order_relaxed);
  }
}

// A thread's walk through what it will read next, while it has nothing else to do.
class Fetch {
 public:
  void follow(const Job& job, int thread) {
    if (job.upcoming.memory == memory_) return;
    memory_ = job.upcoming.memory;
    const auto begin = [&](int i) { return job.upcoming.parts * i / job.threads; };
    const int64_t bytes = (begin(thread + 1) - begin(thread)) * job.upcoming.part_bytes;
    next_ = memory_ + begin(thread) * job.upcoming.part_bytes;
    end_ = next_ + (bytes < kMostFetched ? bytes : kMostFetched);
  }

  // Fetches a few lines; false when there are none left.
  bool some() {
    constexpr int kLines = 4;
    if (end_ - next_ < kLines * kLine) return false;
    for (int i = 0; i < kLines; ++i, next_ += kLine) __builtin_prefetch(next_, 0, 2);
    return true;
  }

 private:
  const char *memory_ = nullptr, *next_ = nullptr, *end_ = nullptr;
};

// One thread and what it was asked to do.
class alignas(64) Worker {
 public:
  Worker(int index, int cpu) : index_(index) {
    std::thread([this, cpu] { live(cpu); }).detach();
  }

  void call(const Job& job) {
    job_ = job;
    if (state_.exchange(kCalled) != kAsleep) return;
    // Locked, so that it cannot fall asleep between its last look and this word.
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_one();
  }

  // Takes the call back, or waits for the end of the work if it has begun.
  void finish() {
    int called = kCalled;
    if (state_.compare_exchange_strong(called, kIdle)) return;
    for (int turn = 0; state_.load(std::memory_order_acquire) == kRunning; ++turn) {
      // It may need the very processor that this thread is on.
      if (turn < kTurnsAwake) {
        pause();
      } else {
        std::this_thread::yield();
      }
    }
  }

 private:
  [[noreturn]] void live(int cpu) {
    bind(cpu);
    for (;;) {
      wait();
      int called = kCalled;
      if (!state_.compare_exchange_strong(called, kRunning)) continue;
      work_on(job_, index_);
      fetch_.follow(job_, index_);
      state_.store(kIdle, std::memory_order_release);
    }
  }

  static void bind(int cpu) {
#ifdef __linux__
    if (cpu < 0) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
#else
    (void)cpu;
#endif
  }

  void wait() {
    using Clock = std::chrono::steady_clock;
    for (auto end = Clock::now() + kAwake; Clock::now() < end;) {
      for (int i = 0; i < 32; ++i) {
        if (state_.load(std::memory_order_relaxed) == kCalled) return;
        if (!fetch_.some()) pause();
      }
    }
    std::unique_lock<std::mutex> lock(mutex_);
    int idle = kIdle;
    if (!state_.compare_exchange_strong(idle, kAsleep)) return;
    wake_.wait(lock, [this] { return state_.load() != kAsleep; });
  }

  std::atomic<int> state_{kIdle};
  Job job_{};
  Fetch fetch_;
  const int index_;
  std::mutex mutex_;
  std::condition_variable wake_;
};

// The process' threads: made when they are first needed, never destroyed, since a thread of the
// caller may still be inside a kernel when the process ends.
class Pool {
 public:
  static Pool& instance() {
    Pool* pool = current().load();
    if (pool != nullptr) return *pool;
    static const int once = pthread_atfork(nullptr, nullptr, [] { current().store(nullptr); });
    (void)once;
    auto* made = new Pool;
    if (current().compare_exchange_strong(pool, made)) return *made;
    delete made;
    return *pool;
  }

  int threads() const { return threads_.load(std::memory_order_relaxed); }

  void expect(const Upcoming& upcoming) { upcoming_ = upcoming; }

  void resize(int count, const int* cpus) {
    while (busy_.test_and_set(std::memory_order_acquire)) pause();
    const Turn turn{busy_};
    if (count > 1) workers_.reserve(count - 1);
    while (static_cast<int>(workers_.size()) + 1 < count) {
      const int index = static_cast<int>(workers_.size()) + 1;
      workers_.push_back(new Worker(index, cpus != nullptr ? cpus[index] : -1));
    }
    threads_.store(count > 1 ? count : 1);
  }

  // A second caller, and a kernel inside a kernel, work alone: no thread waits for another's job.
  void run(Job job) {
    std::atomic<bool> out_of_memory{false};
    job.upcoming = upcoming_;
    job.out_of_memory = &out_of_memory;
    const int threads = job.threads;
    if (busy_.test_and_set(std::memory_order_acquire)) {
      job.work(job.context, 0);
      return;
    }
    const Turn turn{busy_};
    const int helpers = threads - 1 < static_cast<int>(workers_.size())
                            ? threads - 1
                            : static_cast<int>(workers_.size());
    for (int i = 0; i < helpers; ++i) workers_[i]->call(job);
    work_on(job, 0);
    for (int i = 0; i < helpers; ++i) workers_[i]->finish();
    if (out_of_memory.load(std::memory_order_relaxed)) throw std::bad_alloc();
  }

 private:
  // Its end lets the next caller have the workers.
  struct Turn {
    std::atomic_flag& busy;
    ~Turn() { busy.clear(std::memory_order_release); }
  };

  // A forked child has none of its parent's threads, and starts without a pool.
  static std::atomic<Pool*>& current() {
    static std::atomic<Pool*> pool{nullptr};
    return pool;
  }

  std::vector<Worker*> workers_;
  Upcoming upcoming_;
  std::atomic<int> threads_{1};
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
};

}  // namespace

int num_threads() { return Pool::instance().threads(); }

void run_on_threads(int threads, void (*work)(const void*, int), const void* context) {
  Pool::instance().run({work, context, {}, threads, nullptr});
}

void expect(const Upcoming& upcoming) { Pool::instance().expect(upcoming); }

}  // namespace windlass

extern "C" {

int windlass_set_threads(int count, const int* cpus) {
  return windlass::run_entry([&] { windlass::Pool::instance().resize(count, cpus); });
}

int windlass_num_threads() {
  int threads = 0;
  const int status = windlass::run_entry([&] { threads = windlass::num_threads(); });
  return status == windlass::kDone ? threads : status;
}
}
