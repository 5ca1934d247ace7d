// Cuts a step's attention into tasks that keep all threads busy until the end.
#include <algorithm>

#include "attention.h"

namespace windlass {
namespace {

// Rows of a prefill tile: enough to pay for packing keys and values, few enough to stay in L2.
constexpr int64_t kRowsPerTile = 192;
constexpr int64_t kMinSplitKeys = 256;
constexpr int64_t kTasksPerThread = 4;
// Reading a key costs about as much as multiplying it with this many rows.
constexpr int64_t kReadCost = 4;

struct Span {
  int64_t begin, end;
};

// The keys that at least one query of the tile sees.
Span visible_keys(const AttentionPlan& plan, const AttentionTile& tile) {
  const AttentionShape& shape = plan.shape;
  const int64_t queries =
      shape.cu_seqlens_q[tile.request + 1] - shape.cu_seqlens_q[tile.request];
  const int64_t first = shape.seq_lens[tile.request] - queries + tile.query_begin;
  const int64_t begin = shape.window ? std::max<int64_t>(0, first - shape.window + 1) : 0;
  return {begin, first + tile.query_count};
}

double cost(const AttentionPlan& plan, const AttentionTile& tile, int64_t num_keys) {
  return static_cast<double>(num_keys) * (kReadCost + plan.rows(tile));
}

void add_tiles(AttentionPlan& plan, int32_t request) {
  const AttentionShape& shape = plan.shape;
  const int32_t queries = shape.cu_seqlens_q[request + 1] - shape.cu_seqlens_q[request];
  const int64_t most = std::max<int64_t>(1, kRowsPerTile / plan.group);
  const int64_t count = (queries + most - 1) / most;
  for (int64_t i = 0; i < count; ++i) {
    const auto begin = static_cast<int32_t>(queries * i / count);
    const auto end = static_cast<int32_t>(queries * (i + 1) / count);
    for (int32_t head = 0; head < shape.num_kv_heads; ++head) {
      plan.tiles.push_back({request, head, begin, end - begin, 1, 0});
    }
  }
}

// Splits the keys of a tile into tasks of at most `limit` cost, where that is worth a merge.
void add_tasks(AttentionPlan& plan, int32_t number, double limit, int64_t& partial_rows) {
  AttentionTile& tile = plan.tiles[number];
  const Span span = visible_keys(plan, tile);
  const int64_t keys = span.end - span.begin;
  const auto wanted = static_cast<int64_t>(cost(plan, tile, keys) / limit) + 1;
  const int64_t splits = std::max<int64_t>(1, std::min(wanted, keys / kMinSplitKeys));
  const int64_t unit = std::max<int64_t>(64, plan.shape.block_size);
  const int64_t length = (keys + splits * unit - 1) / (splits * unit) * unit;
  int32_t split = 0;
  for (int64_t begin = span.begin; begin < span.end; ++split) {
    const int64_t end = std::min(span.end, (begin / unit) * unit + length);
    plan.tasks.push_back(
        {number, split, static_cast<int32_t>(begin), static_cast<int32_t>(end)});
    begin = end;
  }
  tile.num_splits = split;
  if (split > 1) {
    tile.partial_row = partial_rows;
    partial_rows += split * plan.rows(tile);
    plan.split_tiles.push_back(number);
  }
}

}  // namespace

std::unique_ptr<AttentionPlan> plan_attention(const AttentionShape& shape, int num_threads) {
  auto plan = std::make_unique<AttentionPlan>();
  plan->shape = shape;
  plan->group = shape.num_heads / shape.num_kv_heads;
  for (int32_t r = 0; r < shape.num_requests; ++r) add_tiles(*plan, r);
  plan->cost = 0;
  for (const AttentionTile& tile : plan->tiles) {
    const Span span = visible_keys(*plan, tile);
    plan->cost += cost(*plan, tile, span.end - span.begin);
  }
  const double limit =
      num_threads > 1 ? plan->cost / (num_threads * kTasksPerThread) : plan->cost + 1;
  int64_t partial_rows = 0;
  for (size_t i = 0; i < plan->tiles.size(); ++i) {
    add_tasks(*plan, static_cast<int32_t>(i), limit, partial_rows);
  }
  std::stable_sort(plan->tasks.begin(), plan->tasks.end(),
                   [&](const AttentionTask& a, const AttentionTask& b) {
                     return cost(*plan, plan->tiles[a.tile], a.key_end - a.key_begin) >
                            cost(*plan, plan->tiles[b.tile], b.key_end - b.key_begin);
                   });
  if (partial_rows > 0) {
    plan->partials.sums.reset(new float[partial_rows * shape.head_dim]);
    plan->partials.maxima.reset(new float[partial_rows]);
    plan->partials.denominators.reset(new float[partial_rows]);
  }
  return plan;
}

}  // namespace windlass
