// Runs a plan with the kernels of the current instruction set.
#include "attention.h"

#include <atomic>

#include "entry.h"
#include "parallel.h"

namespace windlass {
namespace {

// What a test chose for products of bfloat16 pairs: -1 leaves it to the processor.
std::atomic<int>& pair_products() {
  static std::atomic<int> choice{-1};
  return choice;
}

// Below this cost a second thread takes longer to wake than to help.
constexpr double kSerialCost = 4096;
constexpr int64_t kSharesPerThread = 16;

#ifndef WINDLASS_SCALAR_ONLY
// Whether bfloat16 dot products do more a second than float32 ones. AMD's processors start two an
// instruction cycle (Zen 4 and 5), Intel's one every two: an Emerald Rapids core reaches
// 86 GFLOP/s with them and 178 with float32.
bool pairs_are_faster() {
  static const bool amd = __builtin_cpu_is("amd") != 0;
  return amd;
}
#endif

const AttentionFormats& formats_for(int32_t dtype) {
#ifndef WINDLASS_SCALAR_ONLY
  const Isa isa = current_isa();
  const bool pairs = pair_products().load() < 0 ? pairs_are_faster() : pair_products().load() > 0;
  if (pairs && isa >= Isa::kAvx512Bf16 && dtype == static_cast<int32_t>(Dtype::kBFloat16)) {
    return kAttentionAvx512Bf16;
  }
  if (isa >= Isa::kAvx512) return kAttentionAvx512.of_dtype[dtype];
  if (isa >= Isa::kAvx2) return kAttentionAvx2.of_dtype[dtype];
#endif
  return kAttentionScalar.of_dtype[dtype];
}

void run(const AttentionPlan& plan, const AttentionCall& call) {
  const AttentionFunctions& functions =
      formats_for(plan.shape.dtype).of_format[plan.shape.cache_format];
  const auto num_tasks = static_cast<int64_t>(plan.tasks.size());
  const auto num_merges = static_cast<int64_t>(plan.split_tiles.size());
  const auto run_task = [&](int64_t i) {
    const AttentionTask& task = plan.tasks[i];
    const AttentionTile& tile = plan.tiles[task.tile];
    const AttentionTask* const next = i + 1 < num_tasks ? &plan.tasks[i + 1] : nullptr;
    const AttentionTile* const next_tile = next != nullptr ? &plan.tiles[next->tile] : nullptr;
    const AttentionWork work{&plan.shape, &call,      &tile,     &task,
                             &plan.partials, plan.group, next_tile, next};
    (tile.query_count == 1 ? functions.decode : functions.prefill)(work);
  };
  const auto merge = [&](int64_t i) {
    const AttentionTile& tile = plan.tiles[plan.split_tiles[i]];
    functions.merge({&plan.shape, &call, &tile, nullptr, &plan.partials, plan.group, nullptr,
                     nullptr});
  };
  const auto run_tasks = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) run_task(i);
  };
  const auto run_merges = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) merge(i);
  };
  if (plan.cost <= kSerialCost) {
    run_tasks(0, num_tasks, 0);
    run_merges(0, num_merges, 0);
    return;
  }
  // Neighbouring tasks go to one thread as far as that leaves enough to balance: it fetches the
  // next task's keys at the end of each.
  parallel_in_order(num_tasks, num_tasks / (num_threads() * kSharesPerThread) + 1, run_tasks);
  parallel_for(num_merges, 1, run_merges);
}

}  // namespace

}  // namespace windlass

using namespace windlass;

extern "C" {

AttentionPlan* windlass_attention_plan(const AttentionShape* shape) {
  AttentionPlan* plan = nullptr;
  run_entry([&] { plan = plan_attention(*shape, num_threads()).release(); });
  return plan;
}

void windlass_attention_free(AttentionPlan* plan) { delete plan; }

int windlass_attention_run(AttentionPlan* plan, const AttentionCall* call) {
  return run_entry([&] { run(*plan, *call); });
}

void windlass_attention_use_pairs(int choice) { pair_products().store(choice); }
}
