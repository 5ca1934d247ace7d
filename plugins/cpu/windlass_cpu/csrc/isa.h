// Instruction-set levels, found at run time; each level includes those before it on x86-64.
#pragma once

#define WINDLASS_EXPORT __attribute__((visibility("default")))

namespace windlass {

enum class Isa : int {
  kScalar = 0,       // any processor the compiler targets by default
  kAvx2 = 1,         // AVX2 + FMA + F16C
  kAvx512 = 2,       // AVX-512 F, BW, DQ, VL
  kAvx512Vnni = 3,   // + VNNI (int8 dot products)
  kAvx512Bf16 = 4,   // + BF16 dot products
  kAmx = 5,          // + AMX tiles for bf16 and int8
};

// The best level of this processor.
Isa best_isa();

// The level that kernels use: the best one, unless a test forced a lower one.
Isa current_isa();

}  // namespace windlass

extern "C" {
WINDLASS_EXPORT int windlass_best_isa();
// Returns 0, or -1 when the processor lacks the level.
WINDLASS_EXPORT int windlass_force_isa(int level);
}
