#include "conv_recurrent/stage_launch.cuh"

namespace frcn {

StageKernels cuda_stages_float32() { return FRCN_ISA::stage_kernels<float, float, FRCN_ISA::StageStream>(); }

}  // namespace frcn
