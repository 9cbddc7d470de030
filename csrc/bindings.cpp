// The Python module fastrcn._C. It takes addresses as integers: the tensors stay with their owner in Python for the
// length of a call.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>

#include "bindings.h"
#include "common/maps_last.h"
#include "common/parallel.h"
#include "conv_recurrent/program.h"
#include "conv_recurrent/stage_tables.h"
#include "kernels.h"
#include "stage_source.h"

namespace py = pybind11;

namespace {

// Of the sums that a type is computed with.
int64_t element_size(int type) { return static_cast<frcn::DataType>(type) == frcn::DataType::float64 ? 8 : 4; }

struct WeightGradientTask {
  frcn::WeightGradientArgs args;
  frcn::WeightGradientFunction function;
  char* totals;
  int64_t units;  // that threads share out
  int64_t bytes;  // of each thread's own total; 0: they share one
};

using Triple = std::tuple<int64_t, int64_t, int64_t>;

void set(int64_t* values, const Triple& triple) { std::tie(values[0], values[1], values[2]) = triple; }

// Adds to totals (kd, kh, kw, inputs, outputs), one of them or, `by_rows`, one for each thread: few channels are not
// enough to share out, so threads share out the rows and sum on their own.
void weight_gradient(const std::string& isa, int type, bool by_rows, uintptr_t x, uintptr_t grad, uintptr_t totals,
                     std::tuple<int64_t, int64_t, int64_t> counts, const Triple& source_size, const Triple& size,
                     const Triple& kernel, const Triple& stride, const Triple& dilation, const Triple& padding,
                     int threads) {
  const auto& table = *frcn::find_kernels(isa).convolutions;
  WeightGradientTask task{};
  auto& args = task.args;
  args.x = reinterpret_cast<const char*>(x);
  args.grad = reinterpret_cast<const char*>(grad);
  std::tie(args.images, args.inputs, args.outputs) = counts;
  set(args.source_size, source_size);
  set(args.size, size);
  set(args.kernel, kernel);
  set(args.stride, stride);
  set(args.dilation, dilation);
  set(args.padding, padding);
  task.totals = reinterpret_cast<char*>(totals);
  const int64_t taps = args.kernel[0] * args.kernel[1] * args.kernel[2];
  const bool half = static_cast<frcn::DataType>(type) == frcn::DataType::bfloat16;
  if (by_rows) {
    task.function = half ? table.weight_gradient_bfloat16_rows : table.weight_gradient;
    task.units = args.images * args.size[0] * args.size[1];
    task.bytes = taps * args.inputs * args.outputs * sizeof(float);
  } else {
    const int64_t block = table.block_outputs(element_size(type));
    task.function = half                      ? table.weight_gradient_bfloat16
                    : element_size(type) == 8 ? table.weight_gradient_double
                                              : table.weight_gradient_float;
    task.units = args.kernel[0] * ((args.outputs + block - 1) / block);
  }
  if (!task.function) throw std::invalid_argument("fastrcn: no compiled weight gradient of this type for " + isa);
  const int64_t products = args.images * args.size[0] * args.size[1] * args.size[2] * taps * args.inputs * args.outputs;
  py::gil_scoped_release release;
  frcn::parallel(
      products < frcn::kSerialWork ? 1 : threads,
      [](void* context, int part, int parts) {
        const auto& t = *static_cast<WeightGradientTask*>(context);
        t.function(t.args, t.units * part / parts, t.units * (part + 1) / parts, t.totals + part * t.bytes);
      },
      &task);
}

class PyPointwise {
 public:
  PyPointwise(const std::string& isa, std::tuple<int64_t, int64_t, int64_t, int64_t> counts, int threads)
      : table_(frcn::find_kernels(isa).convolutions->pointwise), threads_(threads) {
    std::tie(args_.images, args_.pixels, args_.inputs, args_.outputs) = counts;
  }

  // Bytes that a call works in.
  int64_t room(bool gradient) const { return frcn::pointwise_room(table_, args_, gradient, threads_); }

  void convolve(uintptr_t source, uintptr_t weight, std::tuple<int64_t, int64_t> weight_step, uintptr_t bias,
                uintptr_t target, uintptr_t room) const {
    auto args = args_;
    args.source = reinterpret_cast<const float*>(source);
    args.weight = reinterpret_cast<const float*>(weight);
    std::tie(args.weight_step[0], args.weight_step[1]) = weight_step;
    args.bias = reinterpret_cast<const float*>(bias);
    args.target = reinterpret_cast<float*>(target);
    py::gil_scoped_release release;
    frcn::pointwise(table_, args, threads_, reinterpret_cast<float*>(room));
  }

  void weight_gradient(uintptr_t source, uintptr_t grad, uintptr_t total, uintptr_t room) const {
    auto args = args_;
    args.source = reinterpret_cast<const float*>(source);
    args.grad = reinterpret_cast<const float*>(grad);
    args.total = reinterpret_cast<float*>(total);
    py::gil_scoped_release release;
    frcn::pointwise_gradient(table_, args, threads_, reinterpret_cast<float*>(room));
  }

 private:
  const frcn::PointwiseTable& table_;
  frcn::PointwiseArgs args_{};
  int threads_;
};

class PyWinograd {
 public:
  PyWinograd(const std::string& isa, std::tuple<int64_t, int64_t, int64_t> counts, const Triple& source_size,
             const Triple& size, const Triple& kernel, const Triple& padding, int threads)
      : table_(find(isa, kernel)), threads_(threads) {
    std::tie(args_.images, args_.inputs, args_.outputs) = counts;
    set(args_.source_size, source_size);
    set(args_.size, size);
    args_.kernel_frames = std::get<0>(kernel);
    set(args_.padding, padding);
  }

  // Values of the weight's points, and bytes that a call works in.
  int64_t points() const {
    return table_.output_blocks(args_) * frcn::winograd_block_values(args_, table_.taps, table_.lanes);
  }
  int64_t room(bool gradient) const { return frcn::winograd_room(table_, args_, gradient, threads_); }

  void transform_weight(uintptr_t weight, const std::array<int64_t, 5>& weight_step, uintptr_t points) {
    set_weight(weight, weight_step);
    py::gil_scoped_release release;
    frcn::winograd_points(table_, args_, threads_, reinterpret_cast<float*>(points));
  }

  // Of points that were made before.
  void set_points(uintptr_t points) { args_.points = reinterpret_cast<const float*>(points); }
  void set_weight(uintptr_t weight, const std::array<int64_t, 5>& weight_step) {
    args_.weight = reinterpret_cast<const float*>(weight);
    std::copy(weight_step.begin(), weight_step.end(), args_.weight_step);
  }

  void convolve(uintptr_t source, uintptr_t bias, uintptr_t target, bool add, uintptr_t room) const {
    auto args = args_;
    args.source = reinterpret_cast<const float*>(source);
    args.bias = reinterpret_cast<const float*>(bias);
    args.target = reinterpret_cast<float*>(target);
    args.add = add;
    py::gil_scoped_release release;
    frcn::winograd(table_, args, false, threads_, reinterpret_cast<float*>(room));
  }

  // As a step of a program, with points.
  frcn::ConvolutionStep step(uintptr_t room) const {
    frcn::ConvolutionStep found{};
    found.args.inputs = args_.inputs;
    found.args.outputs = args_.outputs;
    std::copy_n(args_.size, 3, found.args.size);
    const int64_t kernel[3] = {args_.kernel_frames, table_.taps, table_.taps};
    std::copy_n(kernel, 3, found.args.kernel);
    found.winograd = {&table_, args_, reinterpret_cast<char*>(room), frcn::winograd_rows(table_, args_)};
    found.winograd.args.add = true;
    return found;
  }

  void weight_gradient(uintptr_t source, uintptr_t grad, uintptr_t total, uintptr_t room) const {
    if (!table_.weight_gradient)
      throw std::invalid_argument("fastrcn: no weight gradient of such a kernel with fewer products");
    auto args = args_;
    args.source = reinterpret_cast<const float*>(source);
    args.grad = reinterpret_cast<const float*>(grad);
    args.total = reinterpret_cast<float*>(total);
    py::gil_scoped_release release;
    frcn::winograd(table_, args, true, threads_, reinterpret_cast<float*>(room));
  }

 private:
  static const frcn::WinogradTable& find(const std::string& isa, const Triple& kernel) {
    for (const auto& table : frcn::find_kernels(isa).convolutions->winograd)
      if (table.taps == std::get<1>(kernel) && table.taps == std::get<2>(kernel)) return table;
    throw std::invalid_argument("fastrcn: no convolution of such a kernel with fewer products");
  }

  const frcn::WinogradTable& table_;
  frcn::WinogradArgs args_{};
  int threads_;
};

void copy_maps_last(uintptr_t source, uintptr_t target, std::tuple<int64_t, int64_t> maps, const Triple& source_bytes,
                    const Triple& target_bytes, int64_t channels, int64_t pixels, int64_t element, int threads) {
  frcn::MapsLast m{};
  m.source = reinterpret_cast<const char*>(source);
  m.target = reinterpret_cast<char*>(target);
  std::tie(m.outer, m.inner) = maps;
  std::tie(m.outer_bytes, m.inner_bytes, m.channel_bytes) = source_bytes;
  std::tie(m.target_outer_bytes, m.target_inner_bytes, m.pixel_bytes) = target_bytes;
  m.channels = channels;
  m.pixels = pixels;
  m.element = element;
  py::gil_scoped_release release;
  frcn::copy_maps_last(m, threads);
}

int64_t block_outputs(const std::string& isa, int type) {
  return frcn::find_kernels(isa).convolutions->block_outputs(element_size(type));
}

using BufferTuple = std::tuple<uintptr_t, int64_t, uintptr_t>;

frcn::Buffer buffer(const BufferTuple& b) {
  return {reinterpret_cast<char*>(std::get<0>(b)), std::get<1>(b), reinterpret_cast<char*>(std::get<2>(b))};
}

class PyProgram {
 public:
  PyProgram(const std::string& isa, int type, int64_t channels, std::tuple<int64_t, int64_t, int64_t> maps,
            uintptr_t lengths, int threads)
      : isa_(isa), kernels_(frcn::find_kernels(isa)) {
    program_.type = static_cast<frcn::DataType>(type);
    program_.channels = channels;
    std::tie(program_.images, program_.map_pixels, program_.width) = maps;
    program_.lengths = reinterpret_cast<const int64_t*>(lengths);
    program_.threads = threads;
    program_.block_outputs = kernels_.convolutions->block_outputs(element_size(type));
  }

  void add_fill(const BufferTuple& target, uintptr_t row, int64_t bytes) {
    program_.steps.push_back({frcn::Program::Kind::fill, program_.fills.size()});
    program_.fills.push_back({buffer(target), reinterpret_cast<const char*>(row), bytes});
  }

  void add_convolution(const BufferTuple& source, const BufferTuple& target, uintptr_t weight,
                       std::tuple<int64_t, int64_t> channels, const Triple& source_size, const Triple& size,
                       const Triple& kernel, const Triple& stride, const Triple& dilation, const Triple& padding,
                       bool skip_first) {
    frcn::ConvolutionStep c{buffer(source), buffer(target), {}, nullptr, skip_first, {}};
    const auto& table = *kernels_.convolutions;
    c.function = program_.type == frcn::DataType::float64    ? table.convolve_double
                 : program_.type == frcn::DataType::bfloat16 ? table.convolve_bfloat16
                                                             : table.convolve_float;
    if (!c.function) throw std::invalid_argument("fastrcn: no compiled convolution of this type for " + isa_);
    c.args.weight = reinterpret_cast<const char*>(weight);
    std::tie(c.args.inputs, c.args.outputs) = channels;
    set(c.args.source_size, source_size);
    set(c.args.size, size);
    set(c.args.kernel, kernel);
    set(c.args.stride, stride);
    set(c.args.dilation, dilation);
    set(c.args.padding, padding);
    program_.steps.push_back({frcn::Program::Kind::convolution, program_.convolutions.size()});
    program_.convolutions.push_back(c);
  }

  void add_winograd(const BufferTuple& source, const BufferTuple& target, const PyWinograd& convolution,
                    bool skip_first, uintptr_t room) {
    auto step = convolution.step(room);
    step.source = buffer(source);
    step.target = buffer(target);
    step.skip_first = skip_first;
    program_.steps.push_back({frcn::Program::Kind::convolution, program_.convolutions.size()});
    program_.convolutions.push_back(step);
  }

  void add_normalize(const BufferTuple& target, const BufferTuple& scale, int64_t channels, double eps) {
    const auto& table = *kernels_.normalizes;
    const int type = program_.type == frcn::DataType::float64;
    program_.steps.push_back({frcn::Program::Kind::normalize, program_.normalizes.size()});
    program_.normalizes.push_back(
        {buffer(target), {}, buffer(scale), channels, eps, false, table.sums[type], table.apply[type]});
  }

  void add_normalize_backward(const BufferTuple& target, const BufferTuple& normalized, const BufferTuple& scale,
                              int64_t channels) {
    const auto& table = *kernels_.normalizes;
    const int type = program_.type == frcn::DataType::float64;
    program_.steps.push_back({frcn::Program::Kind::normalize, program_.normalizes.size()});
    program_.normalizes.push_back({buffer(target), buffer(normalized), buffer(scale), channels, 0, true,
                                   table.sums_backward[type], table.apply_backward[type]});
  }

  void add_stage(const std::string& fingerprint, int stage, bool backward, const std::vector<BufferTuple>& buffers,
                 const std::vector<int64_t>& pitch, const std::vector<int64_t>& element,
                 const std::vector<int64_t>& parameter_size) {
    const auto* entry = frcn::find_stage(isa_, fingerprint, stage, backward, program_.type);
    if (!entry) throw std::invalid_argument("fastrcn: no compiled stage " + fingerprint + " for " + isa_);
    if (buffers.size() != static_cast<size_t>(entry->arguments) || pitch.size() != buffers.size() ||
        element.size() != buffers.size() || buffers.size() > frcn::kMaxStageArguments ||
        parameter_size.size() != static_cast<size_t>(entry->parameter_gradients))
      throw std::invalid_argument("fastrcn: stage " + fingerprint + " got buffers that do not fit its signature");
    frcn::StageStep s{entry->function, {}, pitch, element, entry->parameter_gradients, parameter_size};
    for (const auto& b : buffers) s.buffers.push_back(buffer(b));
    program_.steps.push_back({frcn::Program::Kind::stage, program_.stages.size()});
    program_.stages.push_back(std::move(s));
  }

  void run(int64_t start, int64_t count, int64_t direction, bool at_start) const {
    py::gil_scoped_release release;
    program_.run(start, count, direction, at_start);
  }

 private:
  std::string isa_;
  frcn::Kernels kernels_;
  frcn::Program program_;
};

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of fastrcn.";
  m.def("built_isas", &frcn::built_isas, "Instruction sets that were compiled in.");
  m.def("usable_isas", &frcn::usable_isas, "Those of them that this processor has, best last.");
  m.def("parallel_runtime_found", &frcn::parallel_runtime_found, "Whether PyTorch's OpenMP threads can be used.");
  m.def("block_outputs", &block_outputs,
        "Output channels of one block of a packed convolution weight, for an instruction set and data type.");
  m.def(
      "convolves_bfloat16",
      [](const std::string& isa) { return frcn::find_kernels(isa).convolutions->convolve_bfloat16 != nullptr; },
      "Whether there is a compiled convolution of bfloat16 for an instruction set.");
  m.def(
      "has_stage",
      [](const std::string& isa, const std::string& fingerprint, int stage, bool backward, int type) {
        return frcn::find_stage(isa, fingerprint, stage, backward, static_cast<frcn::DataType>(type)) != nullptr;
      },
      "Whether a stage was compiled for an instruction set and data type (0 float32, 1 float64, 2 bfloat16).");
  m.def("register_stages", &frcn::register_stages, "Load a library of stages, compiled from stage_source.");
  m.def("copy_maps_last", &copy_maps_last, "Copy matrices (C,P) as (P,C).");
  m.def("weight_gradient", &weight_gradient, "Add a convolution's weight gradient.");
  py::class_<PyWinograd>(m, "Winograd",
                         "A convolution of 3x3 or 5x5 rows and columns, and its weight gradient, with fewer products.")
      .def(py::init<const std::string&, std::tuple<int64_t, int64_t, int64_t>, const Triple&, const Triple&,
                    const Triple&, const Triple&, int>())
      .def("points", &PyWinograd::points)
      .def("room", &PyWinograd::room)
      .def("transform_weight", &PyWinograd::transform_weight)
      .def("set_points", &PyWinograd::set_points)
      .def("set_weight", &PyWinograd::set_weight)
      .def("convolve", &PyWinograd::convolve)
      .def("weight_gradient", &PyWinograd::weight_gradient);
  py::class_<PyPointwise>(m, "Pointwise", "A convolution of 1x1x1 over contiguous maps, and its weight gradient.")
      .def(py::init<const std::string&, std::tuple<int64_t, int64_t, int64_t, int64_t>, int>())
      .def("room", &PyPointwise::room)
      .def("convolve", &PyPointwise::convolve)
      .def("weight_gradient", &PyPointwise::weight_gradient);
  py::class_<PyProgram>(m, "Program",
                        "The time loop: fills, convolutions, normalisations and stages, run once per step.")
      .def(py::init<const std::string&, int, int64_t, std::tuple<int64_t, int64_t, int64_t>, uintptr_t, int>())
      .def("add_fill", &PyProgram::add_fill)
      .def("add_convolution", &PyProgram::add_convolution)
      .def("add_winograd", &PyProgram::add_winograd)
      .def("add_normalize", &PyProgram::add_normalize)
      .def("add_normalize_backward", &PyProgram::add_normalize_backward)
      .def("add_stage", &PyProgram::add_stage)
      .def("run", &PyProgram::run);
  bind_relu_maxpool3d(m);
#if defined(FASTRCN_WITH_CUDA)
  bind_cuda_stages(m);
#endif
  m.attr("most_stage_arguments") = frcn::kMaxStageArguments;
  m.attr("stage_source") = fastrcn_stage_source;
#if defined(FASTRCN_BUILD_INFO)
  m.attr("build_info") = FASTRCN_BUILD_INFO;
#endif
}
