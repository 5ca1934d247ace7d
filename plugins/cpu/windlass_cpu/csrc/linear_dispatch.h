// Which products go through tiles (linear_tiles.h).
#pragma once

#include <cstdint>

#include "isa.h"

namespace windlass {

// Whether a product of so many rows does; `least` is where AMX is faster than vectors.
bool use_tiles(int64_t rows, int64_t least);

}  // namespace windlass

extern "C" {
// Whether tiles are used: 1 always, emulated where the level has no AMX; 0 never; -1 (the start
// value) where the level has AMX and it is faster. Returns the value before.
WINDLASS_EXPORT int windlass_linear_use_tiles(int choice);
}
