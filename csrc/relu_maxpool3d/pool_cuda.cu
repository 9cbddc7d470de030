#include "relu_maxpool3d/pool_cuda.h"

#include "relu_maxpool3d/pool_launch.cuh"

namespace frcn {

std::string cuda_pool_forward(const PoolArgs& args, int type, void* stream) {
  return FRCN_ISA::run_forward(args, type, FRCN_ISA::DeviceLaunch{static_cast<cudaStream_t>(stream)});
}

std::string cuda_pool_backward(const PoolArgs& args, int type, void* stream) {
  return FRCN_ISA::run_backward(args, type, FRCN_ISA::DeviceLaunch{static_cast<cudaStream_t>(stream)});
}

}  // namespace frcn
