#include "conv_recurrent/stage_launch.cuh"

namespace frcn {

StageKernels cuda_stages_float16() {
  return FRCN_ISA::stage_kernels<FRCN_ISA::float16, float, FRCN_ISA::StageStream>();
}

}  // namespace frcn
