// The emitted stages with a convolution before them on a GPU; see stages_cuda.h.
#pragma once

#include "conv_recurrent/step_kernels.h"

namespace frcn {

StepKernels cuda_steps_float32();  // products in TF32
StepKernels cuda_steps_bfloat16();
StepKernels cuda_steps_float16();

// None of float64, which has no tensor cores.
inline StepKernels cuda_steps(DataType type) {
  switch (type) {
    case DataType::float32:
      return cuda_steps_float32();
    case DataType::bfloat16:
      return cuda_steps_bfloat16();
    case DataType::float16:
      return cuda_steps_float16();
    default:
      return {nullptr, nullptr};
  }
}

}  // namespace frcn
