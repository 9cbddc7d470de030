#include "conv_recurrent/step_launch.cuh"

namespace frcn {

StepKernels cuda_steps_float16() { return FRCN_ISA::step_kernels<FRCN_ISA::float16, FRCN_ISA::StepStream>(); }

}  // namespace frcn
