// The emitted stages on a GPU. Addresses are the device's; `where` is a stream (a cudaStream_t), on which kernels are
// started; nothing is allocated and nothing waited for.
#pragma once

#include "conv_recurrent/stage_kernels.h"

namespace frcn {

StageKernels cuda_stages_float32();
StageKernels cuda_stages_float64();
StageKernels cuda_stages_bfloat16();
StageKernels cuda_stages_float16();

}  // namespace frcn
