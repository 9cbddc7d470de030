#include "conv_recurrent/step_launch.cuh"

namespace frcn {

StepKernels cuda_steps_float32() { return FRCN_ISA::step_kernels<float, FRCN_ISA::StepStream>(); }

}  // namespace frcn
