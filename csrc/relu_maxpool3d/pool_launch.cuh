// Starts the kernels that pool_dispatch.h chooses.
#pragma once

#include <algorithm>
#include <string>

#include "relu_maxpool3d/pool_dispatch.h"

namespace FRCN_ISA {

constexpr int kThreads = 256;
// Blocks that a processor must have registers for: 64 a thread, or 80 with eight lanes, which would spill otherwise.
template <int kLanes>
constexpr int kLeastBlocks = kLanes > 4 ? 3 : 4;
constexpr int64_t kMostBlocks = 1 << 20;

template <class Body>
__global__ void __launch_bounds__(kThreads, kLeastBlocks<Body::kLanes>)
    pool_kernel(const __grid_constant__ DevicePool a) {
  Body::run(a, static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, static_cast<int64_t>(gridDim.x) * kThreads);
}

struct DeviceBlock {
  template <class Function>
  __device__ __forceinline__ void each(Function function) const {
    function(static_cast<int>(threadIdx.x));
    __syncthreads();
  }
};

template <class Body>
__global__ void __launch_bounds__(kSumThreads, kLeastBlocks<Body::kLanes>)
    pool_sum_kernel(const __grid_constant__ DeviceSums a) {
  __shared__ double room[Body::kRoom];
  Body::run(a, DeviceBlock{}, room, blockIdx.x, blockIdx.y);
}

struct DeviceLaunch {
  static constexpr int64_t kBlocks = kSumBlocks;
  cudaStream_t stream;

  static std::string state() {
    const cudaError_t status = cudaGetLastError();
    return status == cudaSuccess ? "" : cudaGetErrorString(status);
  }

  template <class Body>
  std::string threads(const DevicePool& p) const {
    const int64_t blocks = std::min(kMostBlocks, (p.items + kThreads - 1) / kThreads);
    if (blocks == 0) return "";
    pool_kernel<Body><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(p);
    return state();
  }

  template <class Body>
  std::string blocks(const DeviceSums& s, int64_t groups, int parts) const {
    pool_sum_kernel<Body><<<dim3(static_cast<unsigned>(groups), parts), kSumThreads, 0, stream>>>(s);
    return state();
  }
};

}  // namespace FRCN_ISA
