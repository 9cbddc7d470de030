// The kernels of stages and normalisations and their time loop as Python functions, of the extension and of tests on
// the host. Addresses are integers; 0: none.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "conv_recurrent/device_program.h"

namespace frcn {

using NormalizeOf = NormalizeKernels (*)(DataType);
// The fields of a StepSource and a StepConvolution.
using SourceTuple = std::tuple<uintptr_t, int64_t, int64_t>;
using StepTuple = std::tuple<std::vector<SourceTuple>, StepConvolution::Axes, StepConvolution::Axes,
                             StepConvolution::Axes, StepConvolution::Axes>;
using FusedTuple = std::tuple<StepTuple, uintptr_t, int64_t>;
using SlotTuple = std::tuple<uintptr_t, int, bool, bool, uintptr_t, int64_t>;

inline StepConvolution step_convolution(const StepTuple& fields) {
  const auto& [sources, size, kernel, padding, dilation] = fields;
  StepConvolution found{{}, size, kernel, padding, dilation};
  for (const auto& [maps, pitch, inputs] : sources) found.sources.push_back({maps, pitch, inputs});
  return found;
}

inline std::vector<StepSlot> step_slots(const std::vector<SlotTuple>& slots) {
  std::vector<StepSlot> found;
  for (const auto& slot : slots)
    found.push_back(std::apply([](const auto&... field) { return StepSlot{field...}; }, slot));
  return found;
}

// The program as Python makes it: (address at time 0, bytes between steps, address at the first step) of a buffer;
// (sizes, strides) of a layout.
class PyDeviceProgram {
 public:
  using BufferTuple = std::tuple<uintptr_t, int64_t, uintptr_t>;
  using LayoutTuple = std::tuple<std::vector<int64_t>, std::vector<int64_t>>;
  using MapsTuple = std::tuple<BufferTuple, LayoutTuple>;
  using WindowTuple = std::tuple<std::vector<int64_t>, std::vector<int64_t>, std::vector<int64_t>>;
  using TakerTuple = std::tuple<size_t, int, int64_t, bool, bool>;

  PyDeviceProgram(std::shared_ptr<const KernelTables> tables, DeviceProgramSetting setting)
      : tables_(std::move(tables)), type_(setting.type), program_(std::move(setting)) {}

  // `fused`: the fields of a FusedConvolution.
  size_t add_addend(const MapsTuple& target, bool alone, const std::optional<FusedTuple>& fused) {
    std::optional<FusedConvolution> convolution;
    if (fused)
      convolution = FusedConvolution{step_convolution(std::get<0>(*fused)), std::get<1>(*fused), std::get<2>(*fused)};
    return program_.add_addend(maps(target), alone, convolution);
  }

  void add_fill(const MapsTuple& target, uintptr_t row, const LayoutTuple& row_layout) {
    program_.add_fill(maps(target), address(row), layout(row_layout));
  }

  void add_product(const MapsTuple& source, const MapsTuple& target, uintptr_t matrix, const LayoutTuple& matrix_layout,
                   bool skip_first) {
    program_.add_product(maps(source), maps(target), address(matrix), layout(matrix_layout), skip_first);
  }

  void add_convolution(const MapsTuple& source, uintptr_t weight, const LayoutTuple& weight_layout,
                       const WindowTuple& window, size_t addend, bool skip_first) {
    program_.add_convolution(maps(source), address(weight), layout(weight_layout),
                             {std::get<0>(window), std::get<1>(window), std::get<2>(window)}, addend, skip_first);
  }

  void add_stage(int number, const std::vector<BufferTuple>& buffers, const std::vector<int64_t>& pitch,
                 const std::vector<bool>& sums_of_maps, const std::vector<TakerTuple>& takers) {
    std::vector<Buffer> all;
    for (const auto& b : buffers) all.push_back(buffer(b));
    std::vector<StageTaker> taken;
    for (const auto& [addend, argument, channel, written, last] : takers)
      taken.push_back({addend, argument, channel, written, last});
    program_.add_stage(tables_->at(number, type_), std::move(all), pitch, sums_of_maps, std::move(taken));
  }

  void add_normalize(const MapsTuple& target, const BufferTuple& scale, double eps, std::optional<size_t> addend) {
    program_.add_normalize(maps(target), buffer(scale), eps, addend);
  }

  void add_normalize_backward(const MapsTuple& target, const BufferTuple& normalized, const BufferTuple& scale) {
    program_.add_normalize_backward(maps(target), buffer(normalized), buffer(scale));
  }

  void run(int64_t start, int64_t count, int64_t direction, bool at_start, uintptr_t stream) {
    pybind11::gil_scoped_release release;
    program_.run(start, count, direction, at_start, reinterpret_cast<void*>(stream));
  }

  void settle() {
    pybind11::gil_scoped_release release;
    program_.settle();
  }

 private:
  static char* address(uintptr_t number) { return reinterpret_cast<char*>(number); }
  static Buffer buffer(const BufferTuple& b) {
    return {address(std::get<0>(b)), std::get<1>(b), address(std::get<2>(b))};
  }
  static Layout layout(const LayoutTuple& l) { return {std::get<0>(l), std::get<1>(l)}; }
  static Maps maps(const MapsTuple& m) { return {buffer(std::get<0>(m)), layout(std::get<1>(m))}; }

  std::shared_ptr<const KernelTables> tables_;
  DataType type_;
  DeviceProgram program_;
};

// `own`: the built-in cells' kernels; `normalize_of` gives the normalisations of a data type.
inline void bind_stages(pybind11::module_& m, KernelTable own, NormalizeOf normalize_of) {
  namespace py = pybind11;
  const auto tables = std::make_shared<KernelTables>(own);
  m.def(
      "cuda_stage",
      [tables](const std::string& fingerprint, int stage, bool backward) {
        return tables->find(fingerprint, stage, backward);
      },
      "Number of a stage's kernels, or -1.");
  m.def(
      "register_cuda_kernels", [tables](const std::string& path) { tables->load(path); },
      "Load a library of kernels, compiled from cuda_stage_source.");
  m.attr("most_stage_sums") = kMostStageSums;
  m.def(
      "launch_cuda_stage",
      [tables](int number, int type, const std::vector<uintptr_t>& data, const std::vector<int64_t>& pitch,
               const std::vector<Addend>& addends, int64_t channels, int64_t pixels, int64_t pixels_per_image,
               uintptr_t lengths, int64_t time, const std::vector<bool>& maps, int64_t parts, uintptr_t stream) {
        const KernelsOfStage kernels = tables->at(number, static_cast<DataType>(type));
        return launch_stage(kernels.stages, kernels.number, data, pitch, addends, {channels, pixels, pixels_per_image},
                            lengths, time, maps, parts, reinterpret_cast<void*>(stream));
      },
      "Launch a stage on a CUDA stream; returns an empty text or what went wrong.");
  m.def(
      "launch_cuda_step",
      [tables](int number, int type, const std::vector<uintptr_t>& data, const std::vector<int64_t>& pitch,
               const std::vector<SlotTuple>& slots, const StepTuple& convolution, int64_t channels, int64_t pixels,
               int64_t pixels_per_image, uintptr_t lengths, int64_t time, const std::vector<bool>& maps, int64_t parts,
               uintptr_t stream) {
        const KernelsOfStage kernels = tables->at(number, static_cast<DataType>(type));
        return launch_step(kernels.stages, kernels.steps, kernels.number, data, pitch, step_slots(slots),
                           step_convolution(convolution), {channels, pixels, pixels_per_image}, lengths, time, maps,
                           parts, reinterpret_cast<void*>(stream));
      },
      "Launch a convolution with the stage that takes its result; returns an empty text or what went wrong.");
  m.attr("cuda_slice_sums") = kSliceSums;
  m.def("cuda_normalize_slices", &normalize_slices, "Slices of an image, from (images, values, blocks).");
  m.def(
      "launch_cuda_normalize",
      [normalize_of](int type, bool backward, uintptr_t target, uintptr_t source, uintptr_t scale, int64_t images,
                     int64_t values, int64_t slices, uintptr_t sums, double eps, uintptr_t stream) {
        const auto address = [](uintptr_t number) { return reinterpret_cast<char*>(number); };
        const NormalizeLaunch launch{address(target), address(source), address(scale), images,
                                     values,          slices,          address(sums),  eps};
        const NormalizeKernels kernels = normalize_of(static_cast<DataType>(type));
        return (backward ? kernels.backward : kernels.forward)(launch, reinterpret_cast<void*>(stream));
      },
      "Normalise images on a CUDA stream, or take the gradient; returns an empty text or what went wrong.");
  py::class_<TorchLibrary, std::shared_ptr<TorchLibrary>>(
      m, "TorchLibrary", py::module_local(),
      "PyTorch's C interface, from the path of a loaded library, for one type of device.")
      .def(py::init<const std::string&, const std::string&>());
  py::class_<PyDeviceProgram>(
      m, "CudaProgram", py::module_local(),
      "The time loop of the cuda backend: fills, products, convolutions, stages and normalisations.")
      .def(py::init([tables, normalize_of](std::shared_ptr<TorchLibrary> torch, int type, int device,
                                           std::tuple<int64_t, int64_t, int64_t> sizes, uintptr_t lengths,
                                           int64_t parts, int64_t fewest_walked) {
             const auto [channels, pixels, pixels_per_image] = sizes;
             const auto kind = static_cast<DataType>(type);
             return std::make_unique<PyDeviceProgram>(tables,
                                                      DeviceProgramSetting{std::move(torch),
                                                                           normalize_of(kind),
                                                                           kind,
                                                                           device,
                                                                           {channels, pixels, pixels_per_image},
                                                                           reinterpret_cast<const int64_t*>(lengths),
                                                                           parts,
                                                                           fewest_walked});
           }),
           py::arg("torch"), py::arg("type"), py::arg("device"), py::arg("sizes"), py::arg("lengths"), py::arg("parts"),
           py::arg("fewest_walked") = 0)
      .def("add_addend", &PyDeviceProgram::add_addend, py::arg("target"), py::arg("alone"),
           py::arg("fused") = std::nullopt)
      .def("add_fill", &PyDeviceProgram::add_fill)
      .def("add_product", &PyDeviceProgram::add_product)
      .def("add_convolution", &PyDeviceProgram::add_convolution)
      .def("add_stage", &PyDeviceProgram::add_stage)
      .def("add_normalize", &PyDeviceProgram::add_normalize)
      .def("add_normalize_backward", &PyDeviceProgram::add_normalize_backward)
      .def("run", &PyDeviceProgram::run)
      .def("settle", &PyDeviceProgram::settle);
}

}  // namespace frcn
