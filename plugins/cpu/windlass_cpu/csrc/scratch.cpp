#include "scratch.h"

#include <cstdlib>
#include <new>

namespace windlass {
namespace {

class Scratch {
 public:
  ~Scratch() { std::free(memory_); }
  void* at_least(int64_t bytes) {
    if (bytes > size_) {
      std::free(memory_);
      size_ = (bytes + 4095) / 4096 * 4096;
      memory_ = std::aligned_alloc(64, size_);
      if (memory_ == nullptr) throw std::bad_alloc();
    }
    return memory_;
  }

 private:
  void* memory_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace

void* thread_scratch(int64_t bytes) {
  thread_local Scratch scratch;
  return scratch.at_least(bytes);
}

}  // namespace windlass
