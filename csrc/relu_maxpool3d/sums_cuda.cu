#include "relu_maxpool3d/pool_cuda.h"
#include "relu_maxpool3d/pool_launch.cuh"

namespace frcn {

std::string cuda_pool_sums(const PoolArgs& args, int type, double* partials, double* totals, void* stream) {
  return FRCN_ISA::run_sums(args, type, partials, totals, FRCN_ISA::DeviceLaunch{static_cast<cudaStream_t>(stream)});
}

std::string cuda_pool_statistics(const PoolArgs& args, int type, double* partials, double* totals, void* stream) {
  return FRCN_ISA::run_statistics(args, type, partials, totals,
                                  FRCN_ISA::DeviceLaunch{static_cast<cudaStream_t>(stream)});
}

int64_t count_cuda_pool_partials(int64_t channels) { return FRCN_ISA::count_partials(channels); }

}  // namespace frcn
