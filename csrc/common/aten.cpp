#include "common/aten.h"

#include <dlfcn.h>

namespace frcn {
namespace {

template <class F>
void find(void* library, const char* name, F& function, std::string& missing) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (!function) missing += (missing.empty() ? "" : ", ") + std::string(name);
}

}  // namespace

std::string Aten::open(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOLOAD | RTLD_LAZY);
  if (!library) return "the library " + path + " (not loaded)";
  std::string missing;
  find(library, "aoti_torch_create_tensor_from_blob", from_blob, missing);
  find(library, "aoti_torch_delete_tensor_object", release, missing);
  find(library, "aoti_torch_cpu_addmm_out", addmm_out, missing);
  find(library, "aoti_torch_cpu_mkldnn__convolution_pointwise_binary_", conv_add, missing);
  return missing;
}

Aten& aten() {
  static Aten functions{};
  return functions;
}

}  // namespace frcn
