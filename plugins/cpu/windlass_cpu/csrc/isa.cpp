#include "isa.h"

#include <atomic>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace windlass {
namespace {

#if defined(__x86_64__) && defined(__linux__)
#ifdef WINDLASS_AMX
// Linux hands out the AMX tile state only to processes that ask for it.
bool amx_permitted() {
  constexpr int kArchReqXcompPerm = 0x1023;
  constexpr int kXfeatureXtiledata = 18;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool tiles = (d >> 24) & 1, int8 = (d >> 25) & 1, bf16 = (d >> 22) & 1;
  if (!(tiles && int8 && bf16)) return false;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtiledata) == 0;
}
#else
bool amx_permitted() { return false; }  // the compiler could not build its kernels
#endif

bool has_avx512_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && ((a >> 5) & 1);
}

Isa detect() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::kScalar;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!avx512) return Isa::kAvx2;
  if (!__builtin_cpu_supports("avx512vnni")) return Isa::kAvx512;
  if (!has_avx512_bf16()) return Isa::kAvx512Vnni;
  return amx_permitted() ? Isa::kAmx : Isa::kAvx512Bf16;
}
#else
Isa detect() { return Isa::kScalar; }
#endif

std::atomic<int>& forced() {
  static std::atomic<int> level{-1};
  return level;
}

}  // namespace

Isa best_isa() {
  static const Isa best = detect();
  return best;
}

Isa current_isa() {
  const int level = forced().load(std::memory_order_relaxed);
  return level < 0 ? best_isa() : static_cast<Isa>(level);
}

}  // namespace windlass

extern "C" {

WINDLASS_EXPORT int windlass_best_isa() { return static_cast<int>(windlass::best_isa()); }

WINDLASS_EXPORT int windlass_force_isa(int level) {
  if (level > static_cast<int>(windlass::best_isa())) return -1;
  windlass::forced().store(level);
  return 0;
}
}
