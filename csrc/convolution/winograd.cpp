#include "convolution/winograd.h"

#include <algorithm>

#include "common/parallel.h"

namespace frcn {
namespace {

constexpr int64_t kChunkBytes = 8 << 20;   // of transformed maps: what the last cache keeps easily
constexpr int64_t kWeightBytes = 4 << 20;  // of a thread's transformed weights, beyond those of one block of outputs
constexpr int64_t kGroupOutputs = 64;
constexpr int64_t kRowsBytes = 384 * 1024;  // of the maps that a thread transforms by itself: some of its own cache

// How a call is divided into chunks, and where in its room what they need is.
struct Plan {
  const WinogradTable& table;
  const WinogradArgs& a;
  bool gradient;
  int64_t rows, columns, chunk_rows, chunk_images, group, source_values, grad_values, thread_values;

  Plan(const WinogradTable& t, const WinogradArgs& args, bool grad) : table(t), a(args), gradient(grad) {
    rows = (a.size[1] + 1) / 2;
    columns = (a.size[2] + 1) / 2;
    const int64_t row_bytes = table.points() * columns * sizeof(float) *
                              (a.source_size[0] * table.input_blocks(a) * table.lanes +
                               (gradient ? a.size[0] * table.output_blocks(a) * 2 * table.lanes : 0));
    // A chunk goes over the weight or its gradient, which should not take longer than the maps.
    const int64_t weight_bytes = a.kernel_frames * table.taps * table.taps * a.inputs * a.outputs * sizeof(float);
    const int64_t bytes = std::max(kChunkBytes, weight_bytes);
    chunk_rows = even(rows, bytes / row_bytes);
    chunk_images = chunk_rows < rows ? 1 : even(a.images, bytes / (row_bytes * rows));
    const int64_t plane = chunk_images * chunk_rows * columns;
    source_values = table.points() * point_step(table.input_blocks(a) * a.source_size[0] * plane);
    grad_values = gradient ? table.points() * point_step(table.output_blocks(a) * 2 * a.size[0] * plane) : 0;
    const int64_t padded = table.points() * point_step(2 * a.kernel_frames * table.input_blocks(a) * table.lanes);
    const int64_t block = gradient ? padded : winograd_block_values(a, table.taps, table.lanes);
    const int64_t fitting = kWeightBytes / (block * int64_t{sizeof(float)});
    group = gradient ? 1 : even(table.output_blocks(a), std::min(kGroupOutputs / (2 * table.lanes), fitting));
    thread_values = group * (block + (gradient ? 0 : table.points() * point_step(2 * piece_tiles())));
  }

  // As equal parts of `count` as there are, at most `most` each.
  static int64_t even(int64_t count, int64_t most) {
    const int64_t parts = (count + std::max<int64_t>(1, most) - 1) / std::max<int64_t>(1, most);
    return (count + parts - 1) / parts;
  }

  int64_t piece_tiles() const { return table.piece_tiles / group; }
  int64_t point_step(int64_t vectors) const { return winograd_point_step(vectors, table.lanes); }
};

std::vector<WinogradPiece> pieces_of(const WinogradArgs& a, int64_t images, int64_t plane, int64_t most) {
  const auto first_tap = [&](int64_t frame) { return std::max<int64_t>(0, a.padding[0] - frame); };
  const auto last_tap = [&](int64_t frame) {
    return std::max(first_tap(frame), std::min(a.kernel_frames, a.source_size[0] + a.padding[0] - frame));
  };
  std::vector<WinogradPiece> pieces;
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t frame = 0, next; frame < a.size[0]; frame = next) {
      next = frame + 1;
      while (next < a.size[0] && first_tap(next) == first_tap(frame) && last_tap(next) == last_tap(frame)) ++next;
      const int64_t tiles = (next - frame) * plane;
      const int64_t parts = (tiles + most - 1) / most;
      for (int64_t k = 0; k < parts; ++k)
        pieces.push_back({image, frame * plane + tiles * k / parts, frame * plane + tiles * (k + 1) / parts,
                          first_tap(frame), last_tap(frame)});
    }
  }
  return pieces;
}

struct Task {
  WinogradTable::Function function;
  const WinogradArgs& args;
  const WinogradChunk& chunk;
  int64_t units;
  float* room;
  int64_t room_step;
};

void run(int threads, Task task) {
  parallel(
      threads,
      [](void* context, int part, int parts) {
        const Task& t = *static_cast<const Task*>(context);
        t.function(t.args, t.chunk, t.units * part / parts, t.units * (part + 1) / parts, t.room + part * t.room_step);
      },
      &task);
}

}  // namespace

void winograd_points(const WinogradTable& table, const WinogradArgs& args, int threads, float* points) {
  struct Weights {
    const WinogradTable& table;
    const WinogradArgs& args;
    float* points;
  } weights{table, args, points};
  parallel(
      threads,
      [](void* context, int part, int parts) {
        const auto& w = *static_cast<const Weights*>(context);
        const int64_t blocks = w.table.output_blocks(w.args);
        w.table.transform_weight(w.args, blocks * part / parts, blocks * (part + 1) / parts, w.points);
      },
      &weights);
}

namespace {

int64_t rows_group(const WinogradTable& table, const WinogradArgs& a) {
  return std::min(table.output_blocks(a), kGroupOutputs / (2 * table.lanes));
}

int64_t rows_source_values(const WinogradTable& table, const WinogradArgs& a, int64_t rows) {
  const int64_t columns = (a.size[2] + 1) / 2;
  return table.points() * winograd_point_step(table.input_blocks(a) * a.source_size[0] * rows * columns, table.lanes);
}

}  // namespace

WinogradRows winograd_rows(const WinogradTable& table, const WinogradArgs& a) {
  const int64_t all = (a.size[1] + 1) / 2, one = rows_source_values(table, a, 1) * sizeof(float);
  const int64_t rows = std::min(all, std::max<int64_t>(1, kRowsBytes / one)), group = rows_group(table, a);
  const int64_t points = group * table.points() * winograd_point_step(2 * (table.piece_tiles / group), table.lanes);
  return {rows, static_cast<int64_t>((rows_source_values(table, a, rows) + points) * sizeof(float))};
}

void winograd_run_rows(const WinogradTable& table, const WinogradArgs& a, int64_t image, int64_t first_row,
                       int64_t rows, float* room) {
  const int64_t columns = (a.size[2] + 1) / 2, group = rows_group(table, a);
  WinogradChunk chunk{image, 1, first_row, rows, columns, room, nullptr, {}, group};
  chunk.pieces = pieces_of(a, 1, chunk.plane(), table.piece_tiles / group);
  table.transform_source(a, chunk, 0, a.source_size[0] * rows, nullptr);
  table.convolve(a, chunk, 0, table.output_vectors(a) * static_cast<int64_t>(chunk.pieces.size()),
                 room + rows_source_values(table, a, rows));
}

namespace {

void run_all_rows(const WinogradTable& table, const WinogradArgs& args, int threads, float* room) {
  struct Rows {
    const WinogradTable& table;
    const WinogradArgs& args;
    char* room;
    WinogradRows most;
  } rows{table, args, reinterpret_cast<char*>(room), winograd_rows(table, args)};
  parallel(
      threads,
      [](void* context, int part, int parts) {
        const auto& r = *static_cast<const Rows*>(context);
        const int64_t all = (r.args.size[1] + 1) / 2, units = r.args.images * all, end = units * (part + 1) / parts;
        for (int64_t unit = units * part / parts, count; unit < end; unit += count) {
          count = std::min({r.most.rows, all - unit % all, end - unit});
          winograd_run_rows(r.table, r.args, unit / all, unit % all, count,
                            reinterpret_cast<float*>(r.room + part * r.most.bytes));
        }
      },
      &rows);
}

}  // namespace

int64_t winograd_room(const WinogradTable& table, const WinogradArgs& args, bool gradient, int threads) {
  if (args.points && !gradient) return threads * winograd_rows(table, args).bytes;
  const Plan plan(table, args, gradient);
  return (plan.source_values + plan.grad_values + threads * plan.thread_values) * sizeof(float);
}

void winograd(const WinogradTable& table, const WinogradArgs& args, bool gradient, int threads, float* room) {
  if (args.points && !gradient) return run_all_rows(table, args, threads, room);
  const Plan plan(table, args, gradient);
  float* const own = room + plan.source_values + plan.grad_values;
  for (int64_t image = 0; image < args.images; image += plan.chunk_images) {
    for (int64_t row = 0; row < plan.rows; row += plan.chunk_rows) {
      const int64_t images = std::min(plan.chunk_images, args.images - image);
      const int64_t rows = std::min(plan.chunk_rows, plan.rows - row);
      WinogradChunk chunk{image, images, row, rows, plan.columns, room, room + plan.source_values, {}, plan.group};
      chunk.pieces = pieces_of(args, images, chunk.plane(), plan.piece_tiles());
      const auto step = [&](WinogradTable::Function function, int64_t units) {
        run(threads, {function, args, chunk, units, own, plan.thread_values});
      };
      step(table.transform_source, images * args.source_size[0] * rows);
      if (gradient) {
        step(table.transform_grad, images * args.size[0] * rows);
        step(table.weight_gradient, table.output_blocks(args) * table.input_blocks(args));
      } else {
        step(table.convolve, table.output_vectors(args) * static_cast<int64_t>(chunk.pieces.size()));
      }
    }
  }
}

}  // namespace frcn
