#include "conv_recurrent/step_walk_launch.cuh"

namespace frcn {

StepKernels cuda_steps_float16() { return FRCN_ISA::step_and_walk_kernels<FRCN_ISA::float16, FRCN_ISA::WalkStream>(); }

}  // namespace frcn
