// Starts the kernels that step_walk_dispatch.h chooses.
#pragma once

#include "conv_recurrent/step_launch.cuh"
#include "conv_recurrent/step_walk_dispatch.h"

namespace FRCN_ISA {

template <class Body>
__global__ void __launch_bounds__(kStepThreads, kLeastBlocks) walk_kernel(const __grid_constant__ FusedWalk walk) {
  extern __shared__ __align__(kEightRows) char step_room[];
  Body::run(walk, StepThreads{step_room}, blockIdx.x, blockIdx.y);
}

struct WalkStream : StepStream {
  static int most_room() { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }

  // None where something is wrong, which the next launch reports.
  template <class Body>
  static int64_t most_blocks(int room) {
    int blocks = 0;
    cudaFuncSetAttribute(walk_kernel<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize, most_room());
    cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, walk_kernel<Body>, kStepThreads, room);
    return attribute(cudaDevAttrCooperativeLaunch) ? static_cast<int64_t>(blocks) * processors() : 0;
  }

  template <class Body>
  std::string walk(FusedWalk walk, int64_t groups, int64_t parts, int room) const {
    void* arguments[] = {&walk};
    const dim3 grid(static_cast<unsigned>(groups), static_cast<unsigned>(parts));
    const cudaError_t status =
        cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(walk_kernel<Body>), grid, dim3(kStepThreads),
                                    arguments, static_cast<size_t>(room), static_cast<cudaStream_t>(stream));
    return status == cudaSuccess ? StageStream::state() : cudaGetErrorString(status);
  }

 private:
  static int attribute(cudaDeviceAttr which) {
    int device = 0, value = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&value, which, device);
    return value;
  }
};

}  // namespace FRCN_ISA
