#include "conv_recurrent/program.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "common/parallel.h"

namespace frcn {
namespace {

constexpr int64_t kSerialWork = 8192;  // values below which a second thread costs more than it brings
constexpr int64_t kFlushPixels = 256;  // pixels summed in float before they go into the double sums

// PyTorch's numbers for the data types (c10/core/ScalarType.h).
int32_t scalar_type(DataType type) { return type == DataType::float32 ? 6 : type == DataType::float64 ? 7 : 15; }

int64_t size_of(DataType type) { return type == DataType::float32 ? 4 : type == DataType::float64 ? 8 : 2; }

class Tensor {
 public:
  Tensor(char* data, std::initializer_list<int64_t> sizes, std::initializer_list<int64_t> strides, DataType type) {
    if (aten().from_blob(data, sizes.size(), sizes.begin(), strides.begin(), 0, scalar_type(type), 0, 0, &handle_))
      throw std::runtime_error("fastrcn: PyTorch could not wrap a buffer");
  }
  ~Tensor() { aten().release(handle_); }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  TensorHandle get() const { return handle_; }

 private:
  TensorHandle handle_ = nullptr;
};

void run_convolution(const ConvolutionStep& c, DataType type, int64_t time, bool first) {
  if (first && c.skip_first) return;
  char* source = c.source.at(time, first);
  char* target = c.target.at(time, first);
  const int64_t from = c.source_channels, to = c.target_channels, h = c.height, w = c.width;
  int32_t failed = 0;
  if (c.pointwise) {
    const int64_t rows = c.batch * h * w;
    const Tensor x(source, {rows, from}, {from, 1}, type);
    const Tensor y(target, {rows, to}, {to, 1}, type);
    failed = aten().addmm_out(y.get(), y.get(), x.get(), c.weight, c.overwrite ? 0.0 : 1.0, 1.0);
  } else {
    const Tensor x(source, {c.batch, from, h, w}, {h * w * from, 1, w * from, from}, type);
    const Tensor y(target, {c.batch, to, h, w}, {h * w * to, 1, w * to, to}, type);
    const int64_t one[2] = {1, 1};
    if (c.overwrite) std::memset(target, 0, c.batch * h * w * to * size_of(type));
    TensorHandle same = nullptr;
    failed = aten().conv_add(y.get(), x.get(), c.weight, nullptr, c.padding, 2, one, 2, one, 2, 1, "add", nullptr,
                             nullptr, nullptr, 0, nullptr, &same);
    if (same) aten().release(same);
  }
  if (failed) throw std::runtime_error("fastrcn: PyTorch's convolution failed inside the time loop");
}

struct StageTask {
  const StageStep* step;
  StageArgs args;
  int64_t pixels;
  DataType type;
};

template <class F>
void add_rows(double* sums, const F* rows, int64_t count) {
  for (int64_t i = 0; i < count; ++i) sums[i] += rows[i];
}

// Parameter gradients: a thread sums a few pixels in the accumulation type and adds them to sums in double. A
// gradient shared by all pixels has sums per thread; one per pixel of the map is written by the thread that owns
// these pixels of the map, in every image.
template <class F>
void run_with_gradients(const StageTask& task, int part, int parts) {
  const StageStep& s = *task.step;
  StageArgs a = task.args;
  const int n = s.parameter_gradients, begin_gradients = static_cast<int>(s.buffers.size()) - n;
  const int64_t c = a.channels, map = a.pixels_per_image, images = task.pixels / map;
  bool per_pixel = false;
  for (int64_t size : s.parameter_size) per_pixel |= size != c;
  // Without per-pixel gradients any split will do: treat all images as one.
  const int64_t span = per_pixel ? map : task.pixels, rounds = per_pixel ? images : 1;
  const int64_t begin = span * part / parts, end = span * (part + 1) / parts;
  std::vector<std::vector<F>> rows(n);
  std::vector<std::vector<double>> shared(n);
  std::vector<double*> targets(n);
  for (int k = 0; k < n; ++k) {
    const bool own = s.parameter_size[k] != c;
    rows[k].resize((own ? kFlushPixels : 1) * c);
    if (!own) shared[k].assign(c, 0.0);
    targets[k] = reinterpret_cast<double*>(a.data[begin_gradients + k]);
    a.pitch[begin_gradients + k] = own ? c : 0;
  }
  for (int64_t round = 0; round < rounds; ++round) {
    for (int64_t p = begin; p < end; p += kFlushPixels) {
      const int64_t stop = std::min(end, p + kFlushPixels), first = round * span + p;
      for (int k = 0; k < n; ++k) {
        std::fill(rows[k].begin(), rows[k].end(), F(0));
        // The stage adds pitch * pixel to the pointer it gets.
        a.data[begin_gradients + k] = reinterpret_cast<char*>(rows[k].data() - first * a.pitch[begin_gradients + k]);
      }
      s.function(a, first, round * span + stop);
      for (int k = 0; k < n; ++k) {
        if (s.parameter_size[k] != c)
          add_rows(targets[k] + p * c, rows[k].data(), (stop - p) * c);
        else
          add_rows(shared[k].data(), rows[k].data(), c);
      }
    }
  }
  for (int k = 0; k < n; ++k)
    if (s.parameter_size[k] == c) add_rows(targets[k] + part * c, shared[k].data(), c);
}

void run_part(void* context, int part, int parts) {
  const StageTask& task = *static_cast<StageTask*>(context);
  if (task.step->parameter_gradients) {
    if (task.type == DataType::float64)
      run_with_gradients<double>(task, part, parts);
    else
      run_with_gradients<float>(task, part, parts);
    return;
  }
  task.step->function(task.args, task.pixels * part / parts, task.pixels * (part + 1) / parts);
}

}  // namespace

void Program::run(int64_t start, int64_t count, int64_t direction, bool at_start) const {
  for (int64_t n = 0; n < count; ++n) {
    const int64_t time = start + n * direction;
    const bool first = at_start && n == 0;
    for (const Step& step : steps) {
      if (step.convolution >= 0) {
        run_convolution(convolutions[step.convolution], type, time, first);
        continue;
      }
      const StageStep& s = stages[step.stage];
      StageTask task{&s, {}, images * pixels_per_image, type};
      for (size_t k = 0; k < s.buffers.size(); ++k) {
        task.args.data[k] = s.buffers[k].at(time, first);
        task.args.pitch[k] = s.pitch[k];
      }
      task.args.channels = channels;
      task.args.pixels_per_image = pixels_per_image;
      task.args.lengths = lengths;
      task.args.time = time;
      parallel(task.pixels * channels < kSerialWork ? 1 : threads, run_part, &task);
    }
  }
}

}  // namespace frcn
