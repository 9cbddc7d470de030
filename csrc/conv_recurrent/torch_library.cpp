#include "conv_recurrent/torch_library.h"

#include <dlfcn.h>

#include <stdexcept>

namespace frcn {
namespace {

struct Library {
  explicit Library(const std::string& path) : handle(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD)) {
    if (!handle) throw std::runtime_error(path + " is not loaded");
  }
  // PyTorch stays loaded all the same.
  ~Library() { dlclose(handle); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  template <class Function>
  bool find(const std::string& name, Function& function) const {
    function = reinterpret_cast<Function>(dlsym(handle, name.c_str()));
    return function != nullptr;
  }

  template <class Function>
  void need(const std::string& name, Function& function) const {
    if (!find(name, function)) throw std::runtime_error("this PyTorch has no function " + name);
  }

  int32_t number(const std::string& name) const {
    int32_t (*function)();
    need(name, function);
    return function();
  }

  void* handle;
};

}  // namespace

TorchLibrary::TorchLibrary(const std::string& path, const std::string& device) {
  const Library library(path);
  const std::string all = "aoti_torch_", own = all + device + "_";
  library.need(own + "convolution", convolution_);
  library.need(own + "add_Tensor", add_);
  library.need(own + "addmm_out", addmm_out_);
  library.need(all + "create_tensor_from_blob", create_);
  library.need(all + "empty_strided", empty_);
  library.need(all + "delete_tensor_object", delete_);
  library.need(all + "get_data_ptr", data_);
  library.need(all + "get_dim", dim_);
  library.need(all + "get_sizes", sizes_);
  library.need(all + "get_strides", strides_);
  library.need(all + "copy_", copy_);
  library.need(all + "zero_", zero_);
  library.find("torch_exception_get_what_without_backtrace", problem_);
  device_type_ = library.number(all + "device_type_" + device);
  types_[static_cast<int>(DataType::float32)] = library.number(all + "dtype_float32");
  types_[static_cast<int>(DataType::float64)] = library.number(all + "dtype_float64");
  types_[static_cast<int>(DataType::bfloat16)] = library.number(all + "dtype_bfloat16");
  types_[static_cast<int>(DataType::float16)] = library.number(all + "dtype_float16");
}

void TorchLibrary::check(int32_t status, const char* what) const {
  if (status == 0) return;
  const std::string problem =
      problem_ ? problem_() : "PyTorch has written what went wrong to the standard error stream";
  throw std::runtime_error("fastrcn: PyTorch's " + std::string(what) + ": " + problem);
}

Tensor TorchLibrary::view(void* data, const Layout& layout, DataType type, int device) const {
  AtenTensor* result = nullptr;
  const auto axes = static_cast<int64_t>(layout.sizes.size());
  check(create_(data, axes, layout.sizes.data(), layout.strides.data(), 0, types_[static_cast<int>(type)], device_type_,
                device, &result),
        "tensor of given memory");
  return own(result);
}

Tensor TorchLibrary::empty(const Layout& layout, DataType type, int device) const {
  AtenTensor* result = nullptr;
  const auto axes = static_cast<int64_t>(layout.sizes.size());
  check(empty_(axes, layout.sizes.data(), layout.strides.data(), types_[static_cast<int>(type)], device_type_, device,
               &result),
        "empty_strided");
  return own(result);
}

void* TorchLibrary::data(const Tensor& tensor) const {
  void* result = nullptr;
  check(data_(tensor.get(), &result), "data_ptr");
  return result;
}

bool TorchLibrary::has_sizes(const Tensor& tensor, const Layout& layout) const {
  int64_t axes = 0, *sizes = nullptr;
  check(dim_(tensor.get(), &axes), "dim");
  check(sizes_(tensor.get(), &sizes), "sizes");
  return std::vector<int64_t>(sizes, sizes + axes) == layout.sizes;
}

bool TorchLibrary::has_strides(const Tensor& tensor, const Layout& layout) const {
  int64_t* strides = nullptr;
  check(strides_(tensor.get(), &strides), "strides");
  for (size_t k = 0; k < layout.sizes.size(); ++k)
    if (layout.sizes[k] != 1 && strides[k] != layout.strides[k]) return false;
  return true;
}

Tensor TorchLibrary::convolution(const Tensor& maps, const Tensor& weight, const Window& window) const {
  static const int64_t no_output_padding[3] = {0, 0, 0};
  AtenTensor* result = nullptr;
  const auto axes = static_cast<int64_t>(window.stride.size());
  check(convolution_(maps.get(), weight.get(), nullptr, window.stride.data(), axes, window.padding.data(), axes,
                     window.dilation.data(), axes, 0, no_output_padding, axes, 1, &result),
        "convolution");
  return own(result);
}

Tensor TorchLibrary::add(const Tensor& one, const Tensor& other) const {
  AtenTensor* result = nullptr;
  check(add_(one.get(), other.get(), 1.0, &result), "add");
  return own(result);
}

void TorchLibrary::add_product(const Tensor& target, const Tensor& rows, const Tensor& matrix) const {
  check(addmm_out_(target.get(), target.get(), rows.get(), matrix.get(), 1.0, 1.0), "addmm_out");
}

void TorchLibrary::copy(const Tensor& target, const Tensor& source) const {
  check(copy_(target.get(), source.get(), 0), "copy_");
}

void TorchLibrary::zero(const Tensor& target) const { check(zero_(target.get()), "zero_"); }

}  // namespace frcn
