// The emitted stages on a GPU: one thread per pixel and channel.
#pragma once

#include <string>

#include "conv_recurrent/stage.h"

namespace frcn {

// Launches a stage over `pixels` rows on a stream (a cudaStream_t). Buffers and lengths are device addresses. Returns
// an empty text, or what went wrong. Stages that sum parameter gradients over pixels are not among these kernels.
std::string launch_cuda_stage(const std::string& fingerprint, int stage, bool backward, DataType type,
                              const StageArgs& args, int64_t pixels, void* stream);

}  // namespace frcn
