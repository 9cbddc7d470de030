// A few functions of PyTorch, through its stable C interface. They are looked up at run time in the PyTorch that the
// process has loaded: neither its headers nor its libraries are needed to build. What a function does not do throws
// std::runtime_error with PyTorch's words. Everything is started on the current stream, and nothing waited for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "conv_recurrent/stage.h"

namespace frcn {

struct AtenTensor;  // PyTorch's own

struct DeleteTensor {
  int32_t (*function)(AtenTensor*) = nullptr;

  void operator()(AtenTensor* tensor) const { function(tensor); }
};

// A tensor object, deleted with this; its memory too where PyTorch allocated it.
using Tensor = std::unique_ptr<AtenTensor, DeleteTensor>;

// How a tensor lies in memory, in elements.
struct Layout {
  std::vector<int64_t> sizes, strides;
};

// Of a convolution, one number for each axis of a map.
struct Window {
  std::vector<int64_t> stride, padding, dilation;
};

class TorchLibrary {
 public:
  // `path`: a loaded library that depends on all of PyTorch's; `device`: the type of the tensors' device, "cpu" or
  // "cuda". Throws std::runtime_error where a function is missing.
  TorchLibrary(const std::string& path, const std::string& device);

  // A tensor on memory that somebody else keeps; `device`: the device's index.
  Tensor view(void* data, const Layout& layout, DataType type, int device) const;
  Tensor empty(const Layout& layout, DataType type, int device) const;
  void* data(const Tensor& tensor) const;
  bool has_sizes(const Tensor& tensor, const Layout& layout) const;
  // Of a tensor of the layout's sizes; the stride along an axis of size 1 does not matter.
  bool has_strides(const Tensor& tensor, const Layout& layout) const;

  // Of maps (N,C,...) with a weight (Co,Ci,...), without a bias.
  Tensor convolution(const Tensor& maps, const Tensor& weight, const Window& window) const;
  Tensor add(const Tensor& one, const Tensor& other) const;
  // target (P,Co) += rows (P,Ci) @ matrix (Ci,Co)
  void add_product(const Tensor& target, const Tensor& rows, const Tensor& matrix) const;
  void copy(const Tensor& target, const Tensor& source) const;
  void zero(const Tensor& target) const;

 private:
  using Numbers = const int64_t*;
  using Binary = int32_t (*)(AtenTensor*, AtenTensor*, double, AtenTensor**);
  using Product = int32_t (*)(AtenTensor*, AtenTensor*, AtenTensor*, AtenTensor*, double, double);
  using Create = int32_t (*)(void*, int64_t, Numbers, Numbers, int64_t, int32_t, int32_t, int32_t, AtenTensor**);
  using Empty = int32_t (*)(int64_t, Numbers, Numbers, int32_t, int32_t, int32_t, AtenTensor**);
  using Convolve = int32_t (*)(AtenTensor*, AtenTensor*, AtenTensor**, Numbers, int64_t, Numbers, int64_t, Numbers,
                               int64_t, int32_t, Numbers, int64_t, int64_t, AtenTensor**);

  Tensor own(AtenTensor* tensor) const { return Tensor(tensor, DeleteTensor{delete_}); }
  void check(int32_t status, const char* what) const;

  Create create_;
  Empty empty_;
  Convolve convolution_;
  Binary add_;
  Product addmm_out_;
  int32_t (*delete_)(AtenTensor*);
  int32_t (*data_)(AtenTensor*, void**);
  int32_t (*dim_)(AtenTensor*, int64_t*);
  int32_t (*sizes_)(AtenTensor*, int64_t**);
  int32_t (*strides_)(AtenTensor*, int64_t**);
  int32_t (*copy_)(AtenTensor*, AtenTensor*, int32_t);
  int32_t (*zero_)(AtenTensor*);
  const char* (*problem_)();  // null in a PyTorch that tells its errors on the standard error stream only
  int32_t device_type_;
  int32_t types_[4];  // by DataType
};

}  // namespace frcn
