#include "relu_maxpool3d/passes.h"

#include <vector>

#include "common/parallel.h"

namespace frcn {
namespace {

constexpr int64_t kSerialValues = 1 << 14;  // below, a second thread costs more than it brings

struct Task {
  const PoolArgs& args;
  int64_t rows;
  PoolFunction function;
  PoolSumFunction sum;
  double* totals;  // (threads, 2, channels)
};

void run_part(void* context, int part, int parts) {
  const Task& t = *static_cast<const Task*>(context);
  const int64_t begin = t.rows * part / parts, end = t.rows * (part + 1) / parts;
  if (t.function)
    t.function(t.args, begin, end);
  else
    t.sum(t.args, begin, end, t.totals + part * 2 * t.args.channels);
}

void run(Task task, int threads) {
  const auto& a = task.args;
  const int64_t values = a.images * a.channels * a.size[0] * a.size[1] * a.size[2];
  parallel(values < kSerialValues ? 1 : threads, run_part, &task);
}

int64_t rows(const PoolArgs& a, const int64_t* size) {
  return a.images * (a.last ? 1 : a.channels) * size[0] * size[1];
}

void run_sum(const PoolArgs& a, int64_t rows, PoolSumFunction sum, int threads, double* totals) {
  std::vector<double> parts(threads * 2 * a.channels, 0.0);
  run({a, rows, nullptr, sum, parts.data()}, threads);
  for (int64_t j = 0; j < 2 * a.channels; ++j) {
    totals[j] = 0;
    for (int part = 0; part < threads; ++part) totals[j] += parts[part * 2 * a.channels + j];
  }
}

}  // namespace

void pool_forward(const PoolFunctions& f, const PoolArgs& a, int threads) {
  run({a, rows(a, a.pooled_size), f.forward, nullptr, nullptr}, threads);
}

void pool_backward(const PoolFunctions& f, const PoolArgs& a, int threads) {
  run({a, rows(a, a.size), f.backward, nullptr, nullptr}, threads);
}

void pool_sums(const PoolFunctions& f, const PoolArgs& a, int threads, double* totals) {
  run_sum(a, rows(a, a.pooled_size), f.sums, threads, totals);
}

void pool_statistics(const PoolFunctions& f, const PoolArgs& a, int threads, double* totals) {
  run_sum(a, rows(a, a.size), f.statistics, threads, totals);
}

}  // namespace frcn
