#include "conv_recurrent/step_walk_launch.cuh"

namespace frcn {

StepKernels cuda_steps_float32() { return FRCN_ISA::step_and_walk_kernels<float, FRCN_ISA::WalkStream>(); }

}  // namespace frcn
