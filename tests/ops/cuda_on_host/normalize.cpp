// The kernels of layer normalisation for the host, each block's threads run one after another.
#include <stdexcept>
#include <vector>

#include "conv_recurrent/normalize_dispatch.h"
#include "stages.h"

namespace {

struct HostLaunch {
  void* where;

  // The last blocks first: none waits for another.
  template <class Body>
  std::string slices(const FRCN_ISA::DeviceNormalize& a, int64_t images) const {
    normalizations().emplace_back(images, a.slices, reinterpret_cast<uintptr_t>(where));
    if (!failure().empty()) return failure();
    for (int64_t image = images; image-- > 0;)
      for (int slice = a.slices; slice-- > 0;) {
        std::vector<typename Body::Sums> room(FRCN_ISA::kNormalizeThreads);
        Body::run(a, HostBlock<FRCN_ISA::kNormalizeThreads>{}, room.data(), image, slice);
      }
    return "";
  }
};

}  // namespace

std::vector<std::tuple<int64_t, int, uintptr_t>>& normalizations() {
  static std::vector<std::tuple<int64_t, int, uintptr_t>> all;
  return all;
}

frcn::NormalizeKernels normalize_of(frcn::DataType type) {
  using namespace FRCN_ISA;
  switch (type) {
    case frcn::DataType::float32:
      return normalize_kernels<float, float, HostLaunch>();
    case frcn::DataType::float64:
      return normalize_kernels<double, double, HostLaunch>();
    case frcn::DataType::bfloat16:
      return normalize_kernels<bfloat16, float, HostLaunch>();
    case frcn::DataType::float16:
      return normalize_kernels<float16, float, HostLaunch>();
  }
  throw std::invalid_argument("there is no data type " + std::to_string(static_cast<int>(type)));
}
