#include "conv_recurrent/stage_launch.cuh"

namespace frcn {

StageKernels cuda_stages_bfloat16() {
  return FRCN_ISA::stage_kernels<FRCN_ISA::bfloat16, float, FRCN_ISA::StageStream>();
}

}  // namespace frcn
