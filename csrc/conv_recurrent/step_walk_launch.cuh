// Starts the kernels that step_walk_dispatch.h chooses.
#pragma once

#include "conv_recurrent/step_launch.cuh"
#include "conv_recurrent/step_walk_dispatch.h"

namespace FRCN_ISA {

// A thread of blocks that wait for each other.
struct WalkThreads : StepThreads {
  // Of memory that other blocks may write too.
  template <int V, class T>
  static __device__ __forceinline__ Pack<T, V> load_pack(const T* source) {
    return load_others_pack<V>(source);
  }

  // What was written before a fence is there for who passes one after having read a number that was added to after it.
  __device__ __forceinline__ void fence() const { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
  __device__ __forceinline__ void add_one(uint32_t* to) const {
    asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(to) : "memory");
  }
  __device__ __forceinline__ uint32_t read(const uint32_t* from) const {
    uint32_t number;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(number) : "l"(from) : "memory");
    return number;
  }
};

template <class Body>
__global__ void __launch_bounds__(kStepThreads, kLeastBlocks)
    walk_kernel(const __grid_constant__ typename Body::Given walk) {
  extern __shared__ __align__(kEightRows) char step_room[];
  Body::run(walk, WalkThreads{step_room}, static_cast<int>(blockIdx.x));
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
  std::string walk(typename Body::Given walk, int room) const {
    void* arguments[] = {&walk};
    const cudaError_t status = cudaLaunchCooperativeKernel(
        reinterpret_cast<const void*>(walk_kernel<Body>), dim3(walk.blocks), dim3(kStepThreads), arguments,
        static_cast<size_t>(room), static_cast<cudaStream_t>(stream));
    return status == cudaSuccess ? StageStream::state() : cudaGetErrorString(status);
  }
};

}  // namespace FRCN_ISA
