// The kernels of other cells' stages as a library of their own. The extension carries this file, with all that it
// includes, as text, for the machine that runs it to compile.
#include <string>

#include "conv_recurrent/kernel_tables.h"
#include "conv_recurrent/stages_cuda_bfloat16.cu"
#include "conv_recurrent/stages_cuda_float16.cu"
#include "conv_recurrent/stages_cuda_float32.cu"
#include "conv_recurrent/stages_cuda_float64.cu"
#include "conv_recurrent/steps_cuda_bfloat16.cu"
#include "conv_recurrent/steps_cuda_float16.cu"
#include "conv_recurrent/steps_cuda_float32.cu"

extern "C" {
extern const frcn::KernelLibrary fastrcn_kernel_library __attribute__((visibility("default")));
const frcn::KernelLibrary fastrcn_kernel_library = {
    frcn::kKernelAbi, sizeof(std::string), {frcn::cuda_stages, frcn::cuda_steps}};
}
