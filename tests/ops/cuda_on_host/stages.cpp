// The kernels of the recurrent stages as a library for the host, each block's threads run one after another.
#include <string>
#include <vector>

#include "conv_recurrent/stage_dispatch.h"

namespace {

struct HostBlock {
  template <class Function>
  void each(Function function) const {
    for (int thread = 0; thread < FRCN_ISA::kStageThreads; ++thread) function(thread);
  }
};

// Few threads, so that they take turns.
struct HostLaunch {
  void* where;

  template <class Body>
  std::string threads(const FRCN_ISA::DeviceStage& a) const {
    const int64_t count = a.items / 3 + 1;
    for (int64_t thread = 0; thread < count; ++thread) Body::run(a, thread, count);
    return "";
  }

  template <class Body>
  std::string blocks(const FRCN_ISA::DeviceStageSums& a, int64_t groups) const {
    std::vector<typename Body::Value> room(Body::kRoom);
    for (int64_t group = 0; group < groups; ++group)
      for (int part = 0; part < a.parts; ++part) Body::run(a, HostBlock{}, room.data(), group, part);
    return "";
  }
};

frcn::StageKernels kernels_of(int64_t type) {
  using namespace FRCN_ISA;
  switch (type) {
    case 0:
      return stage_kernels<float, float, HostLaunch>();
    case 1:
      return stage_kernels<double, double, HostLaunch>();
    case 2:
      return stage_kernels<bfloat16, float, HostLaunch>();
    default:
      return stage_kernels<float16, float, HostLaunch>();
  }
}

}  // namespace

extern "C" int cuda_stage(const char* fingerprint, int stage, int backward) {
  return frcn::find_stage_kernel(kernels_of(0), fingerprint, stage, backward != 0);
}

// `addends`: five numbers each; `sizes`: channels, pixels, pixels per image.
extern "C" const char* launch_cuda_stage(int number, int type, const int64_t* data, const int64_t* pitch, int arguments,
                                         const int64_t* addends, int count, const int64_t* sizes, int64_t lengths,
                                         int64_t time, const int64_t* maps, int sums, int64_t parts) {
  static std::string wrong;
  std::vector<frcn::Addend> added;
  for (const int64_t* a = addends; a < addends + 5 * count; a += 5)
    added.emplace_back(static_cast<int>(a[0]), a[1], a[2], a[3] != 0, a[4] != 0);
  try {
    wrong = frcn::launch_stage(kernels_of(type), number, {data, data + arguments}, {pitch, pitch + arguments}, added,
                               {sizes[0], sizes[1], sizes[2]}, lengths, time, std::vector<bool>(maps, maps + sums),
                               parts, nullptr);
  } catch (const std::exception& error) {
    wrong = error.what();
  }
  return wrong.c_str();
}
