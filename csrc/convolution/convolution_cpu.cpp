// The convolution kernels, compiled once per instruction set (FRCN_ISA: base, avx2, avx512, avx512_bf16).
#include "convolution/convolution_kernel.h"
#include "convolution/pointwise_kernel.h"
#include "convolution/weight_gradient_kernel.h"
#include "convolution/weight_gradient_packed.h"
#include "convolution/winograd_kernel.h"

namespace FRCN_ISA {

#if defined(__AVX512BF16__)
constexpr frcn::ConvolutionFunction kConvolveBfloat16 = add_convolution<bfloat16>;
constexpr frcn::WeightGradientFunction kRowsBfloat16 = add_weight_gradient_packed_rows<bfloat16>;
constexpr frcn::WeightGradientFunction kPackedBfloat16 = add_weight_gradient_packed<bfloat16>;
#else
constexpr frcn::ConvolutionFunction kConvolveBfloat16 = nullptr;
constexpr frcn::WeightGradientFunction kRowsBfloat16 = nullptr, kPackedBfloat16 = nullptr;
#endif

extern const frcn::ConvolutionTable convolution_table;
const frcn::ConvolutionTable convolution_table = {add_convolution<float>,
                                                  add_convolution<double>,
                                                  kConvolveBfloat16,
                                                  add_weight_gradient,
                                                  add_weight_gradient_packed<float>,
                                                  add_weight_gradient_packed<double>,
                                                  kRowsBfloat16,
                                                  kPackedBfloat16,
                                                  {kWinograd3, kWinograd5},
                                                  kPointwise,
                                                  kVectorBytes};

}  // namespace FRCN_ISA
