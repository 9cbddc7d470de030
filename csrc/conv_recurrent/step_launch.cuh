// Starts the kernels that step_dispatch.h chooses. Copies past the registers, loads of operands by a warp and products
// are the instructions of sm_80 and later; products of warpgroups are sm_90a's.
#pragma once

#include <algorithm>
#include <string>

#include "conv_recurrent/stage_launch.cuh"
#include "conv_recurrent/step_dispatch.h"
#include "conv_recurrent/step_product_warpgroups.h"
#include "conv_recurrent/step_product_warps.h"
#include "conv_recurrent/step_warpgroups.cuh"
#include "conv_recurrent/steps_cuda.h"

namespace FRCN_ISA {

__device__ __forceinline__ void multiply_add(const float16*, float (&sums)[4], const uint32_t (&left)[4],
                                             const uint32_t* right) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

__device__ __forceinline__ void multiply_add(const bfloat16*, float (&sums)[4], const uint32_t (&left)[4],
                                             const uint32_t* right) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

// TF32 by leaving the last 13 bits unread: to round them takes three instructions a value. Weights come rounded.
__device__ __forceinline__ void multiply_add(const float*, float (&sums)[4], const uint32_t (&left)[4],
                                             const uint32_t* right) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

// Places are bytes in the block's memory.
struct StepBlock {
  template <class T, class Tile>
  using Product = WarpProduct<T, Tile, StepBlock>;

  char* memory;

  __device__ __forceinline__ uint32_t at(int place) const {
    return static_cast<uint32_t>(__cvta_generic_to_shared(memory)) + place;
  }

  __device__ __forceinline__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ char* room() const { return memory; }
  __device__ __forceinline__ void sync() const { __syncthreads(); }

  // 16 bytes, or zeros.
  __device__ __forceinline__ void copy(int to, const char* from, bool is_there) const {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at(to)), "l"(from), "r"(is_there ? 16 : 0)
                 : "memory");
  }
  __device__ __forceinline__ void commit() const { asm volatile("cp.async.commit_group;" ::: "memory"); }

  // Until no more than kGroups of this thread's groups of copies are on their way.
  template <int kGroups>
  __device__ __forceinline__ void wait() const {
    asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
  }

  __device__ __forceinline__ void load(uint32_t (&parts)[4], int from) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(parts[0]), "=r"(parts[1]), "=r"(parts[2]), "=r"(parts[3])
                 : "r"(at(from))
                 : "memory");
  }

  template <class T>
  __device__ __forceinline__ void multiply(float (&sums)[4], const uint32_t (&left)[4], const uint32_t* right) const {
    multiply_add(static_cast<const T*>(nullptr), sums, left, right);
  }

  // Of memory that the kernel may write too.
  template <int V, class T>
  static __device__ __forceinline__ Pack<T, V> load_pack(const T* source) {
    return load_own_pack<V>(source);
  }
};

// Its products are warpgroups'.
struct StepWarpgroupBlock : StepBlock {
  template <class T, class Tile>
  using Product = WarpgroupProduct<T, Tile, StepWarpgroupBlock>;

  // So that the compiler sees that it is one for the whole warp: matrix descriptors are in registers of a warp.
  __device__ __forceinline__ int warp() const { return __shfl_sync(~0u, thread() / 32, 0); }

  // This thread's copies, before what the tensor cores read.
  __device__ __forceinline__ void fence_copies() const { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
  // What threads did with their sums, before products that add to them.
  __device__ __forceinline__ void fence_sums() const { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

  template <class T, int kBlocks>
  __device__ __forceinline__ void multiply(float (&sums)[kBlocks][4], uint64_t left, uint64_t right) const {
    multiply_group(static_cast<const T*>(nullptr), sums, left, right);
  }
  __device__ __forceinline__ void commit_products() const {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  }

  // Until all products are done; nobody reads the sums before.
  template <int kBlocks>
  __device__ __forceinline__ void wait_for_products(float (&sums)[kBlocks][4]) const {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int m = 0; m < kBlocks; ++m) asm volatile("" : FRCN_SUMS_8(m));
  }
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
using StepThreads = StepWarpgroupBlock;
#else
using StepThreads = StepBlock;
#endif

template <class Body>
__global__ void __launch_bounds__(kStepThreads, kLeastBlocks) step_kernel(const __grid_constant__ FusedStep a) {
  extern __shared__ __align__(kEightRows) char step_room[];
  Body::run(a, StepThreads{step_room}, blockIdx.x, blockIdx.y);
}

struct StepStream {
  void* stream;

  // Of the current device; 0 where something is wrong, which the next launch reports.
  static int attribute(cudaDeviceAttr which) {
    int device = 0, value = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&value, which, device);
    return value;
  }

  static int processors() { return std::max(1, attribute(cudaDevAttrMultiProcessorCount)); }

  template <class Body>
  std::string step(const FusedStep& a, int64_t groups, int64_t parts, int room) const {
    // The same for all tiles: the limit belongs to the kernel, which other threads may be launching too.
    const cudaError_t status =
        cudaFuncSetAttribute(step_kernel<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize, LargeTile::room);
    if (status != cudaSuccess) return cudaGetErrorString(status);
    step_kernel<Body><<<dim3(static_cast<unsigned>(groups), static_cast<unsigned>(parts)), kStepThreads, room,
                        static_cast<cudaStream_t>(stream)>>>(a);
    return StageStream::state();
  }
};

}  // namespace FRCN_ISA
