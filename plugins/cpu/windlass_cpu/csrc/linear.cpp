// How a product is cut into tiles and shared among threads.
//
// Rows go in blocks whose packed activations stay in L2 while the weights stream past them, once a
// block. A task is one panel of weights against one block; within it the rows go in groups of at
// most the micro-kernel's height, as equal as can be.
#include "linear.h"

#include <unistd.h>

#include "parallel.h"
#include "rows.h"
#include "scratch.h"

namespace windlass {
namespace {

constexpr int kLine = 64;
constexpr int64_t kPrefetchDistance = 4096;
constexpr int64_t kTasksPerThread = 4;
// Packing less than this is done before a second thread has started.
constexpr int64_t kPackGrain = 1 << 17;

int64_t l2_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t found = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (found > 0) return found;
#endif
  return 1 << 20;
}

// Parts of `rows` rows, none larger than `most`, as equal as can be.
struct Parts {
  int64_t rows, count;

  Parts(int64_t rows, int64_t most) : rows(rows), count(divide_up(rows, most)) {}
  int64_t begin(int64_t part) const { return rows * part / count; }
  int64_t size(int64_t part) const { return begin(part + 1) - begin(part); }
};

class Product {
 public:
  Product(const LinearKernel& kernel, const PanelShape& panel, const LinearCall& call)
      : kernel_(kernel),
        panel_(panel),
        call_(call),
        panels_(divide_up(call.outputs, kPanelColumns)),
        row_bytes_(panel.steps * kernel.step_bytes) {}

  void run() {
    const int64_t block = block_rows(), most = block * blocks_at_once();
    static thread_local Scratch scratch;
    packed_ = static_cast<char*>(
        scratch.at_least((call_.rows < most ? call_.rows : most) * row_bytes_));
    for (int64_t first = 0; first < call_.rows; first += most) {
      const int64_t left = call_.rows - first;
      const Parts blocks(left < most ? left : most, block);
      pack(first, blocks);
      multiply(first, blocks);
    }
  }

 private:
  // Rows whose packed activations take at most half of L2, in whole groups.
  int64_t block_rows() const {
    const int64_t groups = l2_bytes() / 2 / row_bytes_ / kernel_.max_rows;
    return (groups < 3 ? 3 : groups) * kernel_.max_rows;
  }

  // Blocks packed at once: enough that every thread has tasks.
  int64_t blocks_at_once() const {
    return divide_up(kTasksPerThread * num_threads(), panels_);
  }

  void pack(int64_t first, const Parts& blocks) {
    const int64_t steps = panel_.steps;
    const int64_t grain = 1 + kPackGrain / (kernel_.step_bytes * blocks.size(0));
    parallel_for(steps * blocks.count, grain, [&](int64_t begin, int64_t end, int) {
      while (begin < end) {
        const int64_t block = begin / steps, start = block * steps;
        const int64_t stop = start + steps < end ? start + steps : end;
        const Parts groups(blocks.size(block), kernel_.max_rows);
        for (int64_t g = 0; g < groups.count; ++g) {
          const int64_t row = blocks.begin(block) + groups.begin(g);
          const Rows rows{call_.x, call_.x_stride, call_.inputs, call_.row_scales};
          kernel_.pack(rows.from(first + row), static_cast<int>(groups.size(g)), begin - start,
                       stop - start, packed_ + row * row_bytes_);
        }
        begin = stop;
      }
    });
  }

  void multiply(int64_t first, const Parts& blocks) {
    const int64_t tasks = gated() ? panels_ / 2 : panels_;
    parallel_for(tasks * blocks.count, 1, [&](int64_t begin, int64_t end, int) {
      const Finish finish{kernel_.finish};
      for (int64_t i = begin; i < end; ++i) {
        const int64_t block = i / tasks, panel = i % tasks;
        const Block rows{first, blocks.begin(block), blocks.size(block)};
        if (gated()) {
          multiply_gated(rows, panel);
        } else {
          multiply_panel(rows, panel, 1, [&](int64_t row) { return output(row, panel); });
        }
      }
    });
  }

  // The kernel's last call in a thread's part, also when memory ran out in it.
  struct Finish {
    void (*call)();
    ~Finish() {
      if (call != nullptr) call();
    }
  };

  // Rows [begin, begin + size) of those that were packed from row `first` of the call on.
  struct Block {
    int64_t first, begin, size;
  };

  bool gated() const { return call_.form == Output::kGated; }

  // One panel for all rows of a block, then the one `step` panels further; to(row of the call)
  // says where sums go.
  template <typename To>
  void multiply_panel(const Block& block, int64_t panel, int64_t step, const To& to) const {
    const Parts groups(block.size, kernel_.max_rows);
    for (int64_t g = 0; g < groups.count; ++g) {
      const int64_t row = block.begin + groups.begin(g);
      TileInput input{packed_ + row * row_bytes_,
                      static_cast<const char*>(call_.packed) + panel * panel_.bytes,
                      panel_.steps,
                      call_.row_scales ? call_.row_scales + block.first + row : nullptr,
                      nullptr,
                      0};
      choose_prefetch(g, groups.count, step, input);
      kernel_.tile[groups.size(g)](input, to(block.first + row));
    }
  }

  // The gates' panel and the factors' go side by side into memory that stays in cache.
  void multiply_gated(const Block& block, int64_t panel) const {
    constexpr int64_t kPair = 2 * kPanelColumns;
    const int64_t half = panels_ / 2, first = block.first + block.begin;
    auto* const pairs =
        static_cast<uint16_t*>(thread_scratch(block.size * kPair * sizeof(uint16_t)));
    for (const int64_t side : {0, 1}) {
      const int64_t from = panel + side * half;
      multiply_panel(block, from, side ? 1 - half : half, [&](int64_t row) {
        return TileOutput{bias(from), pairs + (row - first) * kPair + side * kPanelColumns, kPair,
                          kPanelColumns, false};
      });
    }
    const SiluMulCall silu{pairs, address(first, panel), kPanelColumns, call_.output_stride};
    row_functions(Dtype::kBFloat16).silu_mul(silu, 0, block.size);
  }

  TileOutput output(int64_t row, int64_t panel) const {
    const int64_t left = call_.outputs - panel * kPanelColumns;
    return {bias(panel), address(row, panel), call_.output_stride,
            static_cast<int>(left < kPanelColumns ? left : kPanelColumns),
            call_.form == Output::kFloat};
  }

  const uint16_t* bias(int64_t panel) const {
    return call_.bias ? call_.bias + panel * kPanelColumns : nullptr;
  }

  void* address(int64_t row, int64_t panel) const {
    const int64_t element = call_.form == Output::kFloat ? sizeof(float) : sizeof(uint16_t);
    return static_cast<char*>(call_.output) +
           (row * call_.output_stride + panel * kPanelColumns) * element;
  }

  // While the first group streams a panel in, memory works; while others reuse the panel, it would
  // idle. So each of several groups fetches a share of the panel that comes next; a single one fetches a
  // fixed distance ahead of itself, across page borders, where the hardware stops.
  void choose_prefetch(int64_t group, int64_t groups, int64_t step, TileInput& input) const {
    const int64_t lines = panel_.step_bytes / kLine;
    const int64_t share = divide_up(lines, groups);
    if (groups == 1) {
      input.prefetch = input.weights + kPrefetchDistance;
      input.prefetch_lines = static_cast<int>(lines);
    } else if (group * share < lines) {
      input.prefetch =
          input.weights + step * panel_.bytes + group * share * panel_.steps * kLine;
      input.prefetch_lines = static_cast<int>(share);
    }
  }

  const LinearKernel& kernel_;
  const PanelShape& panel_;
  const LinearCall& call_;
  const int64_t panels_, row_bytes_;
  char* packed_ = nullptr;
};

}  // namespace

void run_linear(const LinearKernel& kernel, const PanelShape& panel, const LinearCall& call) {
  if (call.rows > 0) Product(kernel, panel, call).run();
}

}  // namespace windlass
