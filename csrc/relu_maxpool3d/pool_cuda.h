// The passes on a GPU. Addresses in PoolArgs are the device's, maps dense, `step` and `pooled_pixel` not read. Types:
// 0 float32, 1 float64, 2 bfloat16, 3 float16. Nothing is allocated and nothing waited for: each function starts its
// kernels on a stream (a cudaStream_t) and returns an empty text, or what went wrong.
#pragma once

#include <cstdint>
#include <string>

#include "relu_maxpool3d/pool.h"

namespace frcn {

std::string cuda_pool_forward(const PoolArgs& args, int type, void* stream);
std::string cuda_pool_backward(const PoolArgs& args, int type, void* stream);

// totals: (2, channels). partials: room for so many doubles.
std::string cuda_pool_sums(const PoolArgs& args, int type, double* partials, double* totals, void* stream);
std::string cuda_pool_statistics(const PoolArgs& args, int type, double* partials, double* totals, void* stream);
int64_t count_cuda_pool_partials(int64_t channels);

}  // namespace frcn
