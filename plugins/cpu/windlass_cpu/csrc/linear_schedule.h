// How the product of a linear layer is cut into tiles and shared among threads.
//
// Rows go in blocks whose packed activations stay in L2 while the weights stream past them once a
// block. A task is one panel of weights against one block of rows; within it the rows go in groups
// of at most the micro-kernel's height, as equal as can be.
#pragma once

#include <cstddef>
#include <cstdint>

#include "parallel.h"

namespace windlass {

// Equal parts of `rows` rows, none larger than `most`.
struct RowGroups {
  int64_t rows;
  int64_t count;

  RowGroups(int64_t rows, int most) : rows(rows), count((rows + most - 1) / most) {}
  int64_t begin(int64_t group) const { return rows * group / count; }
  int size(int64_t group) const { return static_cast<int>(begin(group + 1) - begin(group)); }
};

struct Schedule {
  int64_t rows;       // of all activations
  int64_t row_bytes;  // of one packed row of activations
  int max_rows;       // of a group
  int64_t panels;
  int64_t panel_bytes;

  // Rows whose packed activations take at most half of L2, in whole groups.
  int64_t block_rows() const;
  // Blocks packed at once: enough that every thread has a task.
  int64_t blocks_at_once() const;
};

// Where a tile's share of the next weights lies, and how many cache lines of it to fetch for
// every `step_bytes` of the weights that the tile reads.
struct Prefetch {
  const char* start;
  int lines;
};

// While the first of `groups` groups streams a panel in, the hardware fetches ahead; while the
// others reuse it, memory would idle. So each group fetches a share of the next panel; a single
// group fetches a fixed distance ahead of itself.
Prefetch prefetch_share(const char* panel, int64_t panel_bytes, int64_t group, int64_t groups,
                        int step_bytes);

// Memory that grows and is kept by the calling thread; contents are lost.
char* scratch(size_t bytes);

// Calls pack(first_row, group rows, begin, end, packed) for parts [begin, end) of `parts` of every
// group, then tile(panel, first_row, group rows, packed, prefetch) for every tile.
template <class Pack, class Tile>
void run_schedule(const Schedule& schedule, const char* weights, int64_t parts, const Pack& pack,
                  const Tile& tile, int step_bytes) {
  const int64_t block = schedule.block_rows();
  const int64_t at_once = block * schedule.blocks_at_once();
  char* packed = scratch(static_cast<size_t>(
      (schedule.rows < at_once ? schedule.rows : at_once) * schedule.row_bytes));
  for (int64_t first = 0; first < schedule.rows; first += at_once) {
    const int64_t rows = schedule.rows - first < at_once ? schedule.rows - first : at_once;
    const RowGroups blocks(rows, static_cast<int>(block));
    const auto pack_block = [&](int64_t b, int64_t begin, int64_t end) {
      const RowGroups groups(blocks.size(b), schedule.max_rows);
      for (int64_t g = 0; g < groups.count; ++g) {
        const int64_t row = blocks.begin(b) + groups.begin(g);
        pack(first + row, groups.size(g), begin, end, packed + row * schedule.row_bytes);
      }
    };
    // A part below the grain is packed faster than a second thread starts.
    const int64_t grain = 1 + (int64_t{1} << 17) / (schedule.row_bytes / parts * rows);
    parallel_for(parts * blocks.count, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end;) {
        const int64_t b = i / parts, stop = (b + 1) * parts < end ? (b + 1) * parts : end;
        pack_block(b, i - b * parts, stop - b * parts);
        i = stop;
      }
    });
    parallel_for(schedule.panels * blocks.count, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / schedule.panels, panel = i % schedule.panels;
        const RowGroups groups(blocks.size(b), schedule.max_rows);
        const char* w = weights + panel * schedule.panel_bytes;
        for (int64_t g = 0; g < groups.count; ++g) {
          const int64_t row = blocks.begin(b) + groups.begin(g);
          tile(panel, w, first + row, groups.size(g), packed + row * schedule.row_bytes,
               prefetch_share(w, schedule.panel_bytes, g, groups.count, step_bytes));
        }
      }
    });
  }
}

}  // namespace windlass
