// A decode step's first work: from the request table to the inputs of the layers.
#pragma once

#include <cstdint>

#include "isa.h"

namespace windlass {

// The tensors of windlass.kernels.step.begin_decode, all side by side in memory.
struct DecodeStart {
  const int32_t* rows;  // [R]
  int64_t num_rows;
  // The request table, whose last row is padding.
  const int64_t* last_token;   // [table_rows]
  int64_t* position;           // [table_rows]
  const int32_t* block_table;  // [table_rows, table_columns]
  int64_t table_rows, table_columns;
  int64_t block_size;
  // What the step gets.
  int64_t* token_ids;   // [R]
  int64_t* positions;   // [R]
  int32_t* seq_lens;    // [R]
  void* slots;          // [R], int64 where `wide_slots`, else int32
  int32_t wide_slots;
  int32_t* blocks;      // [R, num_columns]
  int64_t num_columns;  // at most table_columns
};

}  // namespace windlass

extern "C" {
// Returns a `Status`. `kBadIndex`: a row is not one of the table's, or has its next position in no
// block of the columns; then the table is as it was.
WINDLASS_EXPORT int windlass_begin_decode(const windlass::DecodeStart*);
}
