// The stages on a GPU as Python functions.
#if defined(FASTRCN_WITH_CUDA)
#include <stdexcept>
#include <string>

#include "bindings.h"
#include "conv_recurrent/stage_bindings.h"
#include "conv_recurrent/stages_cuda.h"

namespace {

frcn::StageKernels kernels_of(frcn::DataType type) {
  switch (type) {
    case frcn::DataType::float32:
      return frcn::cuda_stages_float32();
    case frcn::DataType::float64:
      return frcn::cuda_stages_float64();
    case frcn::DataType::bfloat16:
      return frcn::cuda_stages_bfloat16();
    case frcn::DataType::float16:
      return frcn::cuda_stages_float16();
  }
  throw std::invalid_argument("fastrcn: there is no data type " + std::to_string(static_cast<int>(type)));
}

}  // namespace

void bind_cuda_stages(pybind11::module_& m) { frcn::bind_stages(m, kernels_of); }
#endif
