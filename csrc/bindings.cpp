// The Python module fastrcn._C. It takes addresses as integers: the tensors stay with their owner in Python for the
// length of a call.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>

#include "common/maps_last.h"
#include "common/parallel.h"
#include "conv_recurrent/program.h"
#include "conv_recurrent/stage.h"
#if defined(FASTRCN_WITH_CUDA)
#include "conv_recurrent/stages_cuda.h"
#endif

namespace py = pybind11;

namespace base {
extern const frcn::StageTable stage_table;
}
#if defined(FASTRCN_WITH_AVX2)
namespace avx2 {
extern const frcn::StageTable stage_table;
}
#endif
#if defined(FASTRCN_WITH_AVX512)
namespace avx512 {
extern const frcn::StageTable stage_table;
}
#endif

namespace {

std::vector<const frcn::StageTable*> usable_tables() {
  std::vector<const frcn::StageTable*> tables{&base::stage_table};
#if defined(FASTRCN_WITH_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) tables.push_back(&avx2::stage_table);
#endif
#if defined(FASTRCN_WITH_AVX512)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    tables.push_back(&avx512::stage_table);
#endif
  return tables;
}

std::vector<std::string> built_isas() {
  std::vector<std::string> names{"base"};
#if defined(FASTRCN_WITH_AVX2)
  names.push_back("avx2");
#endif
#if defined(FASTRCN_WITH_AVX512)
  names.push_back("avx512");
#endif
  return names;
}

std::vector<std::string> usable_isas() {
  std::vector<std::string> names;
  for (const auto* table : usable_tables()) names.push_back(table->isa);
  return names;
}

const frcn::StageTable* find_table(const std::string& isa) {
  for (const auto* table : usable_tables())
    if (isa == table->isa) return table;
  throw std::invalid_argument("fastrcn: instruction set " + isa + " is not usable here");
}

struct WeightGradientTask {
  frcn::WeightGradientArgs args;
  frcn::WeightGradientFunction function;
  float* totals;
  int64_t size;
};

// Adds to totals (threads, kh, kw, inputs, outputs), one for each thread, so that they need not wait for each other.
void weight_gradient(const std::string& isa, uintptr_t x, uintptr_t grad, uintptr_t totals,
                     std::tuple<int64_t, int64_t, int64_t> maps, std::tuple<int64_t, int64_t> channels,
                     std::tuple<int64_t, int64_t> kernel, std::tuple<int64_t, int64_t> dilation, int threads) {
  const auto [images, height, width] = maps;
  const auto [inputs, outputs] = channels;
  WeightGradientTask task{{reinterpret_cast<const float*>(x),
                           reinterpret_cast<const float*>(grad),
                           images,
                           height,
                           width,
                           inputs,
                           outputs,
                           {std::get<0>(kernel), std::get<1>(kernel)},
                           {std::get<0>(dilation), std::get<1>(dilation)}},
                          find_table(isa)->weight_gradient,
                          reinterpret_cast<float*>(totals),
                          std::get<0>(kernel) * std::get<1>(kernel) * inputs * outputs};
  py::gil_scoped_release release;
  frcn::parallel(
      threads,
      [](void* context, int part, int parts) {
        const auto& t = *static_cast<WeightGradientTask*>(context);
        const int64_t rows = t.args.images * t.args.height;
        t.function(t.args, rows * part / parts, rows * (part + 1) / parts, t.totals + part * t.size);
      },
      &task);
}

void copy_maps_last(uintptr_t source, uintptr_t target, std::tuple<int64_t, int64_t> maps,
                    std::tuple<int64_t, int64_t, int64_t> bytes, int64_t channels, int64_t pixels, int64_t element,
                    int threads) {
  frcn::MapsLast m{};
  m.source = reinterpret_cast<const char*>(source);
  m.target = reinterpret_cast<char*>(target);
  std::tie(m.outer, m.inner) = maps;
  std::tie(m.outer_bytes, m.inner_bytes, m.channel_bytes) = bytes;
  m.channels = channels;
  m.pixels = pixels;
  m.element = element;
  py::gil_scoped_release release;
  frcn::copy_maps_last(m, threads);
}

const frcn::StageEntry* find_stage(const frcn::StageTable& table, const std::string& fingerprint, int stage,
                                   bool backward, int type) {
  for (int k = 0; k < table.count; ++k) {
    const auto& e = table.entries[k];
    if (fingerprint == e.fingerprint && e.stage == stage && e.backward == backward && static_cast<int>(e.type) == type)
      return &e;
  }
  return nullptr;
}

int64_t block_outputs(const frcn::StageTable& table, int type) {
  return 2 * table.vector_bytes / (static_cast<frcn::DataType>(type) == frcn::DataType::float64 ? 8 : 4);
}

using BufferTuple = std::tuple<uintptr_t, int64_t, uintptr_t>;

frcn::Buffer buffer(const BufferTuple& b) {
  return {reinterpret_cast<char*>(std::get<0>(b)), std::get<1>(b), reinterpret_cast<char*>(std::get<2>(b))};
}

using Pair = std::tuple<int64_t, int64_t>;

class PyProgram {
 public:
  PyProgram(const std::string& isa, int type, int64_t channels, std::tuple<int64_t, int64_t, int64_t> maps,
            uintptr_t lengths, int threads)
      : table_(find_table(isa)) {
    program_.type = static_cast<frcn::DataType>(type);
    program_.channels = channels;
    std::tie(program_.images, program_.height, program_.width) = maps;
    program_.lengths = reinterpret_cast<const int64_t*>(lengths);
    program_.threads = threads;
    program_.block_outputs = block_outputs(*table_, type);
  }

  void add_fill(const BufferTuple& target, uintptr_t row, int64_t bytes) {
    program_.steps.push_back({frcn::Program::Kind::fill, program_.fills.size()});
    program_.fills.push_back({buffer(target), reinterpret_cast<const char*>(row), bytes});
  }

  void add_convolution(const BufferTuple& source, const BufferTuple& target, uintptr_t weight, const Pair& channels,
                       const Pair& source_map, const Pair& map, const Pair& kernel, const Pair& stride,
                       const Pair& dilation, const Pair& padding, bool skip_first) {
    frcn::ConvolutionStep c{buffer(source), buffer(target), {}, nullptr, skip_first};
    c.function = program_.type == frcn::DataType::float64 ? table_->convolution_double : table_->convolution_float;
    c.args.weight = reinterpret_cast<const char*>(weight);
    std::tie(c.args.inputs, c.args.outputs) = channels;
    std::tie(c.args.source_height, c.args.source_width) = source_map;
    std::tie(c.args.height, c.args.width) = map;
    std::tie(c.args.kernel[0], c.args.kernel[1]) = kernel;
    std::tie(c.args.stride[0], c.args.stride[1]) = stride;
    std::tie(c.args.dilation[0], c.args.dilation[1]) = dilation;
    std::tie(c.args.padding[0], c.args.padding[1]) = padding;
    program_.steps.push_back({frcn::Program::Kind::convolution, program_.convolutions.size()});
    program_.convolutions.push_back(c);
  }

  void add_stage(const std::string& fingerprint, int stage, bool backward, const std::vector<BufferTuple>& buffers,
                 const std::vector<int64_t>& pitch, const std::vector<int64_t>& parameter_size) {
    const auto* entry = find_stage(*table_, fingerprint, stage, backward, static_cast<int>(program_.type));
    if (!entry) throw std::invalid_argument("fastrcn: no compiled stage " + fingerprint + " for " + table_->isa);
    if (buffers.size() != static_cast<size_t>(entry->arguments) || pitch.size() != buffers.size() ||
        buffers.size() > frcn::kMaxStageArguments ||
        parameter_size.size() != static_cast<size_t>(entry->parameter_gradients))
      throw std::invalid_argument("fastrcn: stage " + fingerprint + " got buffers that do not fit its signature");
    frcn::StageStep s{entry->function, {}, pitch, entry->parameter_gradients, parameter_size};
    for (const auto& b : buffers) s.buffers.push_back(buffer(b));
    program_.steps.push_back({frcn::Program::Kind::stage, program_.stages.size()});
    program_.stages.push_back(std::move(s));
  }

  void run(int64_t start, int64_t count, int64_t direction, bool at_start) const {
    py::gil_scoped_release release;
    program_.run(start, count, direction, at_start);
  }

 private:
  const frcn::StageTable* table_;
  frcn::Program program_;
};

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of fastrcn.";
  m.def("built_isas", &built_isas, "Instruction sets that were compiled in.");
  m.def("usable_isas", &usable_isas, "Those of them that this processor has, best last.");
  m.def("parallel_runtime_found", &frcn::parallel_runtime_found, "Whether PyTorch's OpenMP threads can be used.");
  m.def(
      "block_outputs", [](const std::string& isa, int type) { return block_outputs(*find_table(isa), type); },
      "Output channels of one block of a packed convolution weight, for an instruction set and data type.");
  m.def(
      "has_stage",
      [](const std::string& isa, const std::string& fingerprint, int stage, bool backward, int type) {
        return find_stage(*find_table(isa), fingerprint, stage, backward, type) != nullptr;
      },
      "Whether a stage was compiled for an instruction set and data type (0 float32, 1 float64, 2 bfloat16).");
  m.def("copy_maps_last", &copy_maps_last, "Copy maps (C,H,W) as (H,W,C).");
  m.def("weight_gradient", &weight_gradient, "Add a convolution's weight gradient to one sum per thread.");
  py::class_<PyProgram>(m, "Program", "The time loop: fills, convolutions and stages, run once per step.")
      .def(py::init<const std::string&, int, int64_t, std::tuple<int64_t, int64_t, int64_t>, uintptr_t, int>())
      .def("add_fill", &PyProgram::add_fill)
      .def("add_convolution", &PyProgram::add_convolution)
      .def("add_stage", &PyProgram::add_stage)
      .def("run", &PyProgram::run);
#if defined(FASTRCN_WITH_CUDA)
  m.def(
      "launch_cuda_stage",
      [](const std::string& fingerprint, int stage, bool backward, int type, const std::vector<uintptr_t>& data,
         const std::vector<int64_t>& pitch, int64_t channels, int64_t pixels, int64_t pixels_per_image,
         uintptr_t lengths, int64_t time, uintptr_t stream) {
        if (data.size() != pitch.size() || data.size() > frcn::kMaxStageArguments)
          throw std::invalid_argument("fastrcn: stage " + fingerprint + " got buffers that do not fit its signature");
        frcn::StageArgs a{};
        for (size_t k = 0; k < data.size(); ++k) {
          a.data[k] = reinterpret_cast<char*>(data[k]);
          a.pitch[k] = pitch[k];
        }
        a.channels = channels;
        a.pixels_per_image = pixels_per_image;
        a.lengths = reinterpret_cast<const int64_t*>(lengths);
        a.time = time;
        return frcn::launch_cuda_stage(fingerprint, stage, backward, static_cast<frcn::DataType>(type), a, pixels,
                                       reinterpret_cast<void*>(stream));
      },
      "Launch one stage on a CUDA stream; returns an empty text or what went wrong.");
#endif
#if defined(FASTRCN_BUILD_INFO)
  m.attr("build_info") = FASTRCN_BUILD_INFO;
#endif
}
