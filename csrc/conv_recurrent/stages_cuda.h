// The emitted stages on a GPU. Addresses are the device's; `where` is a stream (a cudaStream_t), on which kernels are
// started; nothing is allocated and nothing waited for.
#pragma once

#include <stdexcept>
#include <string>

#include "conv_recurrent/stage_kernels.h"

namespace frcn {

StageKernels cuda_stages_float32();
StageKernels cuda_stages_float64();
StageKernels cuda_stages_bfloat16();
StageKernels cuda_stages_float16();

inline StageKernels cuda_stages(DataType type) {
  switch (type) {
    case DataType::float32:
      return cuda_stages_float32();
    case DataType::float64:
      return cuda_stages_float64();
    case DataType::bfloat16:
      return cuda_stages_bfloat16();
    case DataType::float16:
      return cuda_stages_float16();
  }
  throw std::invalid_argument("fastrcn: there is no data type " + std::to_string(static_cast<int>(type)));
}

}  // namespace frcn
