// The convolution kernels, compiled once per instruction set (FRCN_ISA: base, avx2, avx512).
#include "convolution/convolution_kernel.h"
#include "convolution/weight_gradient_kernel.h"
#include "convolution/weight_gradient_packed.h"

namespace FRCN_ISA {

extern const frcn::ConvolutionTable convolution_table;
const frcn::ConvolutionTable convolution_table = {add_convolution<float>,
                                                  add_convolution<double>,
                                                  add_weight_gradient,
                                                  add_weight_gradient_packed<float>,
                                                  add_weight_gradient_packed<double>,
                                                  kVectorBytes};

}  // namespace FRCN_ISA
