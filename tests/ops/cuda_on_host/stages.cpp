// The kernels of the recurrent stages for the host, each block's threads run one after another.
#include "stages.h"

#include <stdexcept>

#include "conv_recurrent/stage_dispatch.h"

namespace {

std::string note(const FRCN_ISA::DeviceStage& a, void* where) {
  int added = 0, written = 0;
  for (int k = 0; k < frcn::kMaxStageArguments; ++k) {
    added += a.addend[k] != nullptr;
    written += a.complete >> k & 1;
  }
  launches().emplace_back(added, written, reinterpret_cast<uintptr_t>(where));
  return failure();
}

// Few threads, so that they take turns.
struct HostLaunch {
  void* where;

  template <class Body>
  std::string threads(const FRCN_ISA::DeviceStage& a) const {
    const std::string problem = note(a, where);
    if (!problem.empty()) return problem;
    const int64_t count = a.items / 3 + 1;
    for (int64_t thread = 0; thread < count; ++thread) Body::run(a, thread, count);
    return "";
  }

  template <class Body>
  std::string blocks(const FRCN_ISA::DeviceStageSums& a, int64_t groups) const {
    const std::string problem = note(a.stage, where);
    if (!problem.empty()) return problem;
    std::vector<typename Body::Value> room(Body::kRoom);
    for (int64_t group = 0; group < groups; ++group)
      for (int part = 0; part < a.parts; ++part)
        Body::run(a, HostBlock<FRCN_ISA::kStageThreads>{}, room.data(), group, part);
    return "";
  }
};

}  // namespace

std::vector<std::tuple<int, int, uintptr_t>>& launches() {
  static std::vector<std::tuple<int, int, uintptr_t>> all;
  return all;
}

std::string& failure() {
  static std::string text;
  return text;
}

frcn::StageKernels kernels_of(frcn::DataType type) {
  using namespace FRCN_ISA;
  switch (type) {
    case frcn::DataType::float32:
      return stage_kernels<float, float, HostLaunch>();
    case frcn::DataType::float64:
      return stage_kernels<double, double, HostLaunch>();
    case frcn::DataType::bfloat16:
      return stage_kernels<bfloat16, float, HostLaunch>();
    case frcn::DataType::float16:
      return stage_kernels<float16, float, HostLaunch>();
  }
  throw std::invalid_argument("there is no data type " + std::to_string(static_cast<int>(type)));
}
