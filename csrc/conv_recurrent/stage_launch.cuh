// Starts the kernels that stage_dispatch.h chooses.
#pragma once

#include <algorithm>
#include <string>

#include "conv_recurrent/stage_dispatch.h"
#include "conv_recurrent/stages_cuda.h"

namespace FRCN_ISA {

// Blocks that a processor must have registers for: 128 a thread. A thread has up to ten loads of 16 bytes on their way,
// so that few threads keep the memory busy.
constexpr int kLeastBlocks = 2;
constexpr int64_t kMostBlocks = 1 << 20;

template <class Body>
__global__ void __launch_bounds__(kStageThreads, kLeastBlocks) stage_kernel(const __grid_constant__ DeviceStage a) {
  Body::run(a, static_cast<int64_t>(blockIdx.x) * kStageThreads + threadIdx.x, gridDim.x * kStageThreads);
}

struct StageBlock {
  template <class Function>
  __device__ __forceinline__ void each(Function function) const {
    function(static_cast<int>(threadIdx.x));
    __syncthreads();
  }
};

template <class Body>
__global__ void __launch_bounds__(kStageThreads, kLeastBlocks)
    stage_sum_kernel(const __grid_constant__ DeviceStageSums a) {
  __shared__ typename Body::Value room[Body::kRoom];
  Body::run(a, StageBlock{}, room, blockIdx.y, static_cast<int>(blockIdx.x));
}

struct StageStream {
  void* stream;

  static std::string state() {
    const cudaError_t status = cudaGetLastError();
    return status == cudaSuccess ? "" : cudaGetErrorString(status);
  }

  template <class Body>
  std::string threads(const DeviceStage& a) const {
    const int64_t blocks = std::min(kMostBlocks, (a.items + kStageThreads - 1) / kStageThreads);
    stage_kernel<Body><<<static_cast<unsigned>(blocks), kStageThreads, 0, static_cast<cudaStream_t>(stream)>>>(a);
    return state();
  }

  template <class Body>
  std::string blocks(const DeviceStageSums& a, int64_t groups) const {
    stage_sum_kernel<Body>
        <<<dim3(a.parts, static_cast<unsigned>(groups)), kStageThreads, 0, static_cast<cudaStream_t>(stream)>>>(a);
    return state();
  }
};

}  // namespace FRCN_ISA
