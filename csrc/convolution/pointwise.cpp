#include "convolution/pointwise.h"

#include <algorithm>

#include "common/parallel.h"

namespace frcn {
namespace {

constexpr int64_t kPackedValues = 64 * 1024;           // of a product's inputs at a time: some of a thread's cache
constexpr int64_t kPackedGradientValues = 256 * 1024;  // the same of the weight gradient's operands
constexpr int64_t kFewestGradientVectors = 8;          // at a time, behind which sums are added up
constexpr int kPartsOfThread = 4;                      // so that all threads end at about the same time

int64_t divide_up(int64_t count, int64_t by) { return (count + by - 1) / by; }

// How a call is divided: pixels of an image in ranges of whole units, panels or vectors.
struct Plan {
  int64_t range, ranges, units;

  Plan(const PointwiseArgs& a, int64_t unit, int64_t most, int threads) {
    const int64_t whole = divide_up(a.pixels, unit);
    const int64_t even = divide_up(a.images * whole, int64_t{threads} * kPartsOfThread);
    range = std::max<int64_t>(1, std::min(most, even)) * unit;
    ranges = divide_up(a.pixels, range);
    units = a.images * ranges;
  }
};

struct Product {
  const PointwiseTable& table;
  const PointwiseArgs& args;
  Plan plan;
  int64_t weight_values, thread_values;

  Product(const PointwiseTable& t, const PointwiseArgs& a, int threads)
      : table(t),
        args(a),
        plan(a, t.panel, kPackedValues / std::max<int64_t>(1, a.inputs * t.panel), threads),
        weight_values(divide_up(a.outputs, t.outputs) * t.outputs * a.inputs),
        thread_values(plan.range * a.inputs) {}
};

struct Gradient {
  const PointwiseTable& table;
  const PointwiseArgs& args;
  Plan plan;
  int64_t blocks, sums, thread_values;

  Gradient(const PointwiseTable& t, const PointwiseArgs& a, int threads)
      : table(t),
        args(a),
        plan(a, t.lanes, std::max(kFewestGradientVectors, kPackedGradientValues / ((a.inputs + a.outputs) * t.lanes)),
             threads),
        blocks(divide_up(a.outputs, t.gradient_outputs)),
        sums(blocks * divide_up(a.inputs, t.gradient_inputs) * t.gradient_block_sums),
        thread_values(plan.range *
                      (blocks * t.gradient_outputs + divide_up(a.inputs, t.gradient_inputs) * t.gradient_inputs)) {}
};

// Calls f(part, parts) by all threads, or by one where there is little to do.
template <class F>
void run(const PointwiseArgs& a, int threads, F f) {
  const bool little = a.images * a.pixels * a.inputs * a.outputs < kSerialWork;
  parallel(little ? 1 : threads, [](void* given, int part, int parts) { (*static_cast<F*>(given))(part, parts); }, &f);
}

// Calls f(image, first pixel, last pixel) for a part of all.
template <class F>
void run_part(const Plan& plan, const PointwiseArgs& a, int part, int parts, F f) {
  for (int64_t unit = plan.units * part / parts; unit < plan.units * (part + 1) / parts; ++unit) {
    const int64_t first = unit % plan.ranges * plan.range;
    f(unit / plan.ranges, first, std::min(first + plan.range, a.pixels));
  }
}

}  // namespace

int64_t pointwise_room(const PointwiseTable& table, const PointwiseArgs& args, bool gradient, int threads) {
  if (gradient) {
    const Gradient task(table, args, threads);
    return threads * (task.sums + task.thread_values) * sizeof(float);
  }
  const Product task(table, args, threads);
  return (task.weight_values + threads * task.thread_values) * sizeof(float);
}

void pointwise(const PointwiseTable& table, const PointwiseArgs& args, int threads, float* room) {
  const Product task(table, args, threads);
  float *const weight = room, *const inputs = room + task.weight_values;
  run(args, threads, [&](int part, int parts) {
    const int64_t blocks = divide_up(args.outputs, table.outputs);
    table.pack_weight(args, blocks * part / parts, blocks * (part + 1) / parts, weight);
  });
  run(args, threads, [&](int part, int parts) {
    run_part(task.plan, args, part, parts, [&](int64_t image, int64_t first, int64_t last) {
      table.multiply(args, weight, image, first, last, inputs + part * task.thread_values);
    });
  });
}

void pointwise_gradient(const PointwiseTable& table, const PointwiseArgs& args, int threads, float* room) {
  const Gradient task(table, args, threads);
  const int64_t apart = task.sums + task.thread_values;
  int summed = 1;
  run(args, threads, [&](int part, int parts) {
    if (part == 0) summed = parts;
    float* const sums = room + part * apart;
    std::fill_n(sums, task.sums, 0.0f);
    run_part(task.plan, args, part, parts, [&](int64_t image, int64_t first, int64_t last) {
      table.add_gradient(args, image, first, last, sums, sums + task.sums);
    });
  });
  run(args, threads, [&](int part, int parts) {
    table.gather_gradient(args, room, summed, apart, task.blocks * part / parts, task.blocks * (part + 1) / parts);
  });
}

}  // namespace frcn
