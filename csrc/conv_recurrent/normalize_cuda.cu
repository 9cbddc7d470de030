#include "conv_recurrent/normalize_cuda.h"

#include <stdexcept>
#include <string>

#include "conv_recurrent/normalize_dispatch.h"

namespace FRCN_ISA {

// Blocks that a processor must have registers for: half of the threads that it can have.
constexpr int kLeastNormalizeBlocks = 4;

struct NormalizeBlock {
  template <class Function>
  __device__ __forceinline__ void each(Function function) const {
    function(static_cast<int>(threadIdx.x));
    __syncthreads();
  }
};

template <class Body>
__global__ void __launch_bounds__(kNormalizeThreads, kLeastNormalizeBlocks)
    normalize_kernel(const __grid_constant__ DeviceNormalize a) {
  __shared__ typename Body::Sums room[kNormalizeThreads];
  Body::run(a, NormalizeBlock{}, room, blockIdx.x, blockIdx.y);
}

struct NormalizeStream {
  void* stream;

  template <class Body>
  std::string slices(const DeviceNormalize& a, int64_t images) const {
    const dim3 grid(static_cast<unsigned>(images), static_cast<unsigned>(a.slices));
    normalize_kernel<Body><<<grid, kNormalizeThreads, 0, static_cast<cudaStream_t>(stream)>>>(a);
    const cudaError_t status = cudaGetLastError();
    return status == cudaSuccess ? "" : cudaGetErrorString(status);
  }
};

}  // namespace FRCN_ISA

namespace frcn {

NormalizeKernels cuda_normalize(DataType type) {
  using namespace FRCN_ISA;
  switch (type) {
    case DataType::float32:
      return normalize_kernels<float, float, NormalizeStream>();
    case DataType::float64:
      return normalize_kernels<double, double, NormalizeStream>();
    case DataType::bfloat16:
      return normalize_kernels<bfloat16, float, NormalizeStream>();
    case DataType::float16:
      return normalize_kernels<float16, float, NormalizeStream>();
  }
  throw std::invalid_argument("fastrcn: there is no data type " + std::to_string(static_cast<int>(type)));
}

}  // namespace frcn
