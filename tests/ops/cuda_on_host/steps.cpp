// The kernels of convolutions with their stages for the host, each block's threads taking turns.
#include "block.h"
#include "conv_recurrent/step_walk_dispatch.h"
#include "grid.h"
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

  static int64_t most_room() { return host_steps().most_room; }
  template <class Body>
  static int64_t most_blocks(int) {
    return host_steps().most_blocks;
  }

  template <class Body>
  std::string walk(const FRCN_ISA::FusedWalk& walk, int64_t groups, int64_t parts, int room) const {
    using namespace FRCN_ISA;
    HostSteps& steps = host_steps();
    const FusedStep& a = walk.step;
    steps.walks.emplace_back(a.tile, groups * parts, a.keeps, walk.count);
    if (*walk.arrivals != 0) return "the counter of arrivals was not zeroed";
    const int64_t pixels = a.stage.items / a.stage.packs.value, moves = (walk.count - 1) * walk.source_between;
    char* source = const_cast<char*>(a.source);
    HostGrid grid(static_cast<int>(groups * parts), ++steps.seed, steps.copies, source + std::min<int64_t>(0, moves),
                  source + std::max<int64_t>(0, moves) + pixels * a.source_pitch);
    grid.run([&](int number) {
      Fibers fibers(kStepThreads, room, steps.copies);
      fibers.run([&](int thread) {
        const HostThread own{&fibers, thread};
        if (steps.warpgroups) {
          Body::run(walk, GridThread<HostWarpgroupThread>{{own}, &grid, number}, number / parts, number % parts);
        } else {
          Body::run(walk, GridThread<HostThread>{own, &grid, number}, number / parts, number % parts);
        }
      });
    });
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
      return step_and_walk_kernels<float, HostLaunch>();
    case frcn::DataType::bfloat16:
      return step_and_walk_kernels<bfloat16, HostLaunch>();
    case frcn::DataType::float16:
      return step_and_walk_kernels<float16, HostLaunch>();
    default:
      return {nullptr, nullptr};
  }
}
