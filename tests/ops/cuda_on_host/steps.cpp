// The kernels of convolutions with their stages for the host, each block's threads taking turns.
#include "block.h"
#include "conv_recurrent/step_dispatch.h"
#include "stages.h"

namespace {

struct HostLaunch {
  void* where;

  static int processors() { return host_steps().processors; }

  template <class Body>
  std::string step(const FRCN_ISA::FusedStep& a, int64_t groups, int64_t parts, int room) const {
    host_steps().launches.emplace_back(a.tile, a.slots);
    for (int64_t group = 0; group < groups; ++group)
      for (int64_t part = 0; part < parts; ++part) {
        FRCN_ISA::Fibers fibers(FRCN_ISA::kStepThreads, room, host_steps().copies);
        fibers.run([&](int thread) {
          const FRCN_ISA::HostThread own{&fibers, thread};
          if (host_steps().warpgroups) {
            Body::run(a, FRCN_ISA::HostWarpgroupThread{own}, group, part);
          } else {
            Body::run(a, own, group, part);
          }
        });
      }
    return "";
  }
};

}  // namespace

HostSteps& host_steps() {
  static HostSteps steps;
  return steps;
}

frcn::StepKernels steps_of(frcn::DataType type) {
  using namespace FRCN_ISA;
  switch (type) {
    case frcn::DataType::float32:
      return step_kernels<float, HostLaunch>();
    case frcn::DataType::bfloat16:
      return step_kernels<bfloat16, HostLaunch>();
    case frcn::DataType::float16:
      return step_kernels<float16, HostLaunch>();
    default:
      return {nullptr};
  }
}
