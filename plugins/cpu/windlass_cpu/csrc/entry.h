// What every function of the C boundary does that may need memory: no exception leaves it.
#pragma once

#include <new>
#include <system_error>

namespace windlass {

// What entries return. `kBadIndex`: a number does not name a row of the table that it belongs to.
enum Status : int { kDone = 0, kBadIndex = -1, kOutOfMemory = -2 };

// Runs the body of an entry, whose status it returns. A thread that cannot be made is, as a rule,
// one for whose stack there is no memory.
template <typename Body>
int run_entry(const Body& body) noexcept {
  try {
    body();
    return kDone;
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  } catch (const std::system_error&) {
    return kOutOfMemory;
  }
}

// For an entry that another one calls.
inline void require(int status) {
  if (status != kDone) throw std::bad_alloc();
}

}  // namespace windlass
