// Copies new keys or values into their slots of the cache.
#include <cstring>

#include "isa.h"
#include "parallel.h"

namespace {

// Tokens that one thread copies at least: smaller parts take longer to hand out than to copy.
constexpr int64_t kGrainBytes = 64 << 10;

}  // namespace

extern "C" {

// `rows` [T, heads, channels] with strides in numbers, channels side by side; a token whose slot
// is negative is left out.
WINDLASS_EXPORT void windlass_write_slots(const char* rows, int64_t row_token_stride,
                                          int64_t row_head_stride, char* cache,
                                          int64_t cache_block_stride, int64_t cache_token_stride,
                                          int64_t cache_head_stride, const int64_t* slots,
                                          int64_t num_tokens, int64_t num_heads, int64_t head_dim,
                                          int64_t block_size, int64_t item_bytes) {
  const int64_t head_bytes = head_dim * item_bytes;
  const int64_t grain = kGrainBytes / (num_heads * head_bytes) + 1;
  windlass::parallel_for(num_tokens, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t token = begin; token < end; ++token) {
      const int64_t slot = slots[token];
      if (slot < 0) continue;
      const char* from = rows + token * row_token_stride * item_bytes;
      char* to = cache + (slot / block_size * cache_block_stride +
                          slot % block_size * cache_token_stride) * item_bytes;
      for (int64_t head = 0; head < num_heads; ++head) {
        std::memcpy(to + head * cache_head_stride * item_bytes,
                    from + head * row_head_stride * item_bytes, head_bytes);
      }
    }
  });
}
}
