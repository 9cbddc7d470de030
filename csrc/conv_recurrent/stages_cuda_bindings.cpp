// The stages on a GPU as Python functions. Addresses are integers; 0: none.
#if defined(FASTRCN_WITH_CUDA)
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "bindings.h"
#include "conv_recurrent/stages_cuda.h"

namespace py = pybind11;

namespace {

frcn::StageKernels kernels_of(int type) {
  switch (static_cast<frcn::DataType>(type)) {
    case frcn::DataType::float32:
      return frcn::cuda_stages_float32();
    case frcn::DataType::float64:
      return frcn::cuda_stages_float64();
    case frcn::DataType::bfloat16:
      return frcn::cuda_stages_bfloat16();
    case frcn::DataType::float16:
      return frcn::cuda_stages_float16();
  }
  throw std::invalid_argument("fastrcn: there is no data type " + std::to_string(type));
}

}  // namespace

void bind_cuda_stages(py::module_& m) {
  m.def(
      "cuda_stage",
      [](const std::string& fingerprint, int stage, bool backward) {
        return frcn::find_stage_kernel(frcn::cuda_stages_float32(), fingerprint, stage, backward);
      },
      "Number of a stage's kernels, or -1.");
  m.def(
      "launch_cuda_stage",
      [](int number, int type, const std::vector<uintptr_t>& data, const std::vector<int64_t>& pitch,
         const std::vector<frcn::Addend>& addends, int64_t channels, int64_t pixels, int64_t pixels_per_image,
         uintptr_t lengths, int64_t time, const std::vector<bool>& maps, int64_t parts, uintptr_t stream) {
        return frcn::launch_stage(kernels_of(type), number, data, pitch, addends, {channels, pixels, pixels_per_image},
                                  lengths, time, maps, parts, reinterpret_cast<void*>(stream));
      },
      "Launch a stage on a CUDA stream; returns an empty text or what went wrong.");
}
#endif
