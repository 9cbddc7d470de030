// The kernels of other cells as a library of their own, for the host.
#include "conv_recurrent/kernel_tables.h"
#include "stages.h"

extern "C" {
extern const frcn::KernelLibrary fastrcn_kernel_library __attribute__((visibility("default")));
const frcn::KernelLibrary fastrcn_kernel_library = {frcn::kKernelAbi, sizeof(std::string), {kernels_of, steps_of}};
}
