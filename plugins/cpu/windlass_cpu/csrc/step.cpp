#include "step.h"

#include <atomic>
#include <cstring>

#include "entry.h"
#include "parallel.h"

namespace windlass {
namespace {

// Copying fewer block ids is done before a second thread has started.
constexpr int64_t kGrainBlocks = 32 << 10;

// Fills in row `i` of the step; false when it has no place.
bool fill_row(const DecodeStart& start, int64_t i) {
  const int64_t row = start.rows[i];
  if (row < 0 || row >= start.table_rows) return false;
  const int64_t position = start.position[row], column = position / start.block_size;
  if (position < 0 || column >= start.num_columns) return false;
  const int32_t* const blocks = start.block_table + row * start.table_columns;
  std::memcpy(start.blocks + i * start.num_columns, blocks, start.num_columns * sizeof *blocks);
  start.token_ids[i] = start.last_token[row];
  start.positions[i] = position;
  start.seq_lens[i] = static_cast<int32_t>(position + 1);
  const bool is_padding = row == start.table_rows - 1;
  const int64_t slot =
      is_padding ? -1 : blocks[column] * start.block_size + position % start.block_size;
  if (start.wide_slots) {
    static_cast<int64_t*>(start.slots)[i] = slot;
  } else {
    static_cast<int32_t*>(start.slots)[i] = static_cast<int32_t>(slot);
  }
  return true;
}

}  // namespace
}  // namespace windlass

using namespace windlass;

extern "C" int windlass_begin_decode(const DecodeStart* start) {
  std::atomic<bool> all_known{true};
  const int status = run_entry([&] {
    const int64_t grain = 1 + kGrainBlocks / (start->num_columns + 1);
    parallel_for(start->num_rows, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        if (!fill_row(*start, i)) all_known = false;
    });
  });
  if (status != kDone) return status;
  if (!all_known) return kBadIndex;
  // Not while others read positions: the padding row may stand there many times.
  for (int64_t i = 0; i < start->num_rows; ++i) {
    const int64_t row = start->rows[i];
    if (row != start->table_rows - 1) start->position[row] = start->positions[i] + 1;
  }
  return kDone;
}
