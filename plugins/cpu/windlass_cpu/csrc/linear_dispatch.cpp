#include "linear_dispatch.h"

#include <atomic>

namespace windlass {
namespace {

std::atomic<int> tile_choice{-1};

}  // namespace

bool use_tiles(int64_t rows, int64_t least) {
  const int choice = tile_choice.load(std::memory_order_relaxed);
  return choice < 0 ? current_isa() >= Isa::kAmx && rows >= least : choice != 0;
}

}  // namespace windlass

extern "C" int windlass_linear_use_tiles(int choice) {
  return windlass::tile_choice.exchange(choice);
}
