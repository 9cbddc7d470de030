// The kernels of convolutions with their stages for the host, each block's threads taking turns.
#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <random>

#include "block.h"
#include "conv_recurrent/step_walk_dispatch.h"
#include "grid.h"
#include "stages.h"

namespace {

using FRCN_ISA::HostGrid;

// Rows of `bytes`, at all times of a walk. `moves`: bytes from the first time to the last.
HostGrid::Range maps_of(const char* first, int64_t rows, int64_t pitch, int64_t bytes, int64_t moves) {
  char* begin = const_cast<char*>(first) + std::min<int64_t>(0, moves);
  return {begin, begin + std::abs(moves) + (rows - 1) * pitch + bytes};
}

// The memory that the blocks of a walk read while others may write to it.
template <class T, class... Lanes>
std::vector<HostGrid::Range> memory_of(FRCN_ISA::Walk<T, Lanes...>, const FRCN_ISA::FusedWalk<sizeof...(Lanes)>& walk) {
  std::vector<HostGrid::Range> found;
  const int64_t turns = walk.count - 1, units = turns * FRCN_ISA::kBetweenUnit;
  const int arguments[] = {Lanes::arguments...}, sums[] = {Lanes::sums...};
  for (size_t n = 0; n < sizeof...(Lanes); ++n) {
    const FRCN_ISA::FusedWalkStep& given = walk.steps[n];
    const FRCN_ISA::FusedStep& a = given.step;
    const int first_sum = arguments[n] - sums[n];
    const frcn::StageArgs& args = a.stage.args;
    const int64_t pixels = a.stage.items / a.stage.packs.value, size = sizeof(T);
    const auto add = [&](const char* first, int64_t pitch, int64_t channels, int64_t moves) {
      if (first && pitch) found.push_back(maps_of(first, pixels, pitch, channels * size, moves));
    };
    for (int k = 0; k < a.sources; ++k)
      add(a.source[k].maps, a.source[k].pitch, a.source[k].inputs, units * given.sources_between[k]);
    for (int k = 0; k < first_sum; ++k)
      add(args.data[k], args.pitch[k] * size, args.channels, units * given.between[k]);
    for (int k = 0; k < sums[n]; ++k) {
      const int64_t rows = a.maps >> k & 1 ? pixels : given.groups, bytes = args.channels * sizeof(double);
      found.push_back(maps_of(args.data[first_sum + k], rows, bytes, bytes, 0));
    }
    for (int slot = 0; slot < a.slots; ++slot)
      add(a.targets[slot], a.target_pitch[slot] * size, args.channels, units * given.targets_between[slot]);
  }
  return found;
}

struct HostLaunch {
  void* where;

  static int processors() { return host_steps().processors; }

  template <class Body>
  std::string step(const FRCN_ISA::FusedStep& a, int64_t groups, int64_t parts, int room) const {
    host_steps().launches.emplace_back(a.tile, a.slots);
    std::vector<int64_t> blocks(groups * parts);
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), std::minstd_rand(++host_steps().seed));
    for (const int64_t block : blocks) {
      FRCN_ISA::Fibers fibers(FRCN_ISA::kStepThreads, room, host_steps().copies);
      fibers.run([&](int thread) {
        const FRCN_ISA::HostThread own{&fibers, thread};
        if (host_steps().warpgroups) {
          Body::run(a, FRCN_ISA::HostWarpgroupThread{own}, block % groups, block / groups);
        } else {
          Body::run(a, own, block % groups, block / groups);
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
  std::string walk(const typename Body::Given& walk, int room) const {
    using namespace FRCN_ISA;
    HostSteps& steps = host_steps();
    std::vector<bool> kept;
    for (const FusedWalkStep& given : walk.steps) kept.push_back(given.step.kept_at > 0);
    steps.walks.emplace_back(walk.steps[0].step.tile, walk.blocks, kept, walk.count);
    if (*walk.arrivals != 0) return "the counter of arrivals was not zeroed";
    HostGrid grid(static_cast<int>(walk.blocks), ++steps.seed, steps.copies, memory_of(Body{}, walk));
    grid.run([&](int number) {
      Fibers fibers(kStepThreads, room, steps.copies);
      fibers.run([&](int thread) {
        const HostThread own{&fibers, thread};
        if (steps.warpgroups) {
          Body::run(walk, GridThread<HostWarpgroupThread>{{own}, &grid, number}, number);
        } else {
          Body::run(walk, GridThread<HostThread>{own, &grid, number}, number);
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
