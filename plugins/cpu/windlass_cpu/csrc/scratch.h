// Working memory of a thread, kept from call to call.
#pragma once

#include <cstdint>

namespace windlass {

// At least `bytes` of this thread's own memory, 64-byte aligned; the next call may hand out the
// same again. Freed when the thread ends.
void* thread_scratch(int64_t bytes);

}  // namespace windlass
