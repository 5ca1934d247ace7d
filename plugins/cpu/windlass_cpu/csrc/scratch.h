// Working memory that is kept from call to call.
#pragma once

#include <cstdint>

namespace windlass {

// Memory that grows to what was asked for; its contents are lost when it grows.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch();

  // At least `bytes`, 64-byte aligned; the next call may hand out the same again. Throws
  // std::bad_alloc.
  void* at_least(int64_t bytes);

 private:
  void* memory_ = nullptr;
  int64_t size_ = 0;
};

// At least `bytes` of this thread's own memory, for a kernel's inner part. Freed when the thread
// ends. Throws std::bad_alloc.
void* thread_scratch(int64_t bytes);

}  // namespace windlass
