#include "relu_maxpool3d/passes.h"

#include <algorithm>
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

// (2, channels).
std::vector<double> sum(const PoolArgs& a, int64_t rows, PoolSumFunction function, int threads) {
  const size_t values = 2 * a.channels;
  std::vector<double> parts(threads * values, 0.0);
  run({a, rows, nullptr, function, parts.data()}, threads);
  for (size_t j = values; j < parts.size(); ++j) parts[j % values] += parts[j];
  parts.resize(values);
  return parts;
}

void put(const double* values, int64_t count, bool wide, void* to) {
  if (wide)
    std::copy_n(values, count, static_cast<double*>(to));
  else
    std::copy_n(values, count, static_cast<float*>(to));
}

}  // namespace

void pool_forward(const PoolFunctions& f, const PoolArgs& a, int threads) {
  run({a, rows(a, a.pooled_size), f.forward, nullptr, nullptr}, threads);
}

void pool_backward(const PoolFunctions& f, const PoolArgs& a, int threads) {
  run({a, rows(a, a.size), f.backward, nullptr, nullptr}, threads);
}

void pool_sums(const PoolFunctions& f, const PoolArgs& a, int threads, bool wide, void* sums) {
  put(sum(a, rows(a, a.pooled_size), f.sums, threads).data(), 2 * a.channels, wide, sums);
}

void pool_statistics(const PoolFunctions& f, const PoolArgs& a, int threads, bool wide, void* mean, void* var) {
  std::vector<double> found = sum(a, rows(a, a.size), f.statistics, threads);
  const double count = static_cast<double>(a.images * a.size[0] * a.size[1] * a.size[2]);
  double *means = found.data(), *vars = means + a.channels;
  std::vector<double> origins(a.channels, 0.0);
  if (count > 0) f.origins(a, 0, a.channels, origins.data());
  for (int64_t c = 0; c < a.channels; ++c) {
    means[c] /= count;
    vars[c] = vars[c] / count - means[c] * means[c];
    if (vars[c] < 0) vars[c] = 0;
    means[c] += origins[c];
  }
  put(means, a.channels, wide, mean);
  put(vars, a.channels, wide, var);
}

}  // namespace frcn
