// Layer normalisation on a GPU. Addresses are the device's; `where` is a stream (a cudaStream_t), on which kernels are
// started; nothing is allocated and nothing waited for.
#pragma once

#include "conv_recurrent/normalize_kernels.h"
#include "conv_recurrent/stage.h"

namespace frcn {

NormalizeKernels cuda_normalize(DataType type);

}  // namespace frcn
