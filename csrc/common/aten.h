// The few PyTorch functions that the time loop calls, over PyTorch's stable C interface (the one that ahead-of-time
// compiled models use). They are looked up in the loaded library, so that no PyTorch header is needed and one build
// serves every version that has them.
#pragma once

#include <cstdint>
#include <string>

namespace frcn {

using TensorHandle = void*;

struct Aten {
  int32_t (*from_blob)(void* data, int64_t ndim, const int64_t* sizes, const int64_t* strides, int64_t offset,
                       int32_t dtype, int32_t device_type, int32_t device_index, TensorHandle* result);
  int32_t (*release)(TensorHandle);
  int32_t (*addmm_out)(TensorHandle out, TensorHandle self, TensorHandle a, TensorHandle b, double beta, double alpha);
  // out += convolution(x, w): oneDNN's convolution with the sum done in its epilogue.
  int32_t (*conv_add)(TensorHandle out, TensorHandle x, TensorHandle w, TensorHandle* bias, const int64_t* padding,
                      int64_t n_padding, const int64_t* stride, int64_t n_stride, const int64_t* dilation,
                      int64_t n_dilation, int64_t groups, const char* binary, double* alpha, const char** unary,
                      const double** scalars, int64_t n_scalars, const char** algorithm, TensorHandle* result);

  // Looks the functions up in the library at `path`; returns what is missing, empty if nothing is.
  std::string open(const std::string& path);
};

// The functions found by open_aten.
Aten& aten();

}  // namespace frcn
