#include "conv_recurrent/stage_launch.cuh"

namespace frcn {

StageKernels cuda_stages_float64() { return FRCN_ISA::stage_kernels<double, double, FRCN_ISA::StageStream>(); }

}  // namespace frcn
