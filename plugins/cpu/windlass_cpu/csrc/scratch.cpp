#include "scratch.h"

#include <cstdlib>
#include <new>

namespace windlass {

Scratch::~Scratch() { std::free(memory_); }

void* Scratch::at_least(int64_t bytes) {
  if (bytes > size_) {
    std::free(memory_);
    memory_ = nullptr;
    size_ = 0;
    const int64_t rounded = (bytes + 4095) / 4096 * 4096;
    memory_ = std::aligned_alloc(64, rounded);
    if (memory_ == nullptr) throw std::bad_alloc();
    size_ = rounded;
  }
  return memory_;
}

void* thread_scratch(int64_t bytes) {
  thread_local Scratch scratch;
  return scratch.at_least(bytes);
}

}  // namespace windlass
