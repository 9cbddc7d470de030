// What stages.cpp has for its Python module.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "block.h"
#include "conv_recurrent/normalize_kernels.h"
#include "conv_recurrent/step_kernels.h"

frcn::StageKernels kernels_of(frcn::DataType type);

frcn::StepKernels steps_of(frcn::DataType type);

frcn::NormalizeKernels normalize_of(frcn::DataType type);

// A block whose threads wait for each other between functions only.
template <int kThreads>
struct HostBlock {
  template <class Function>
  void each(Function function) const {
    for (int thread = 0; thread < kThreads; ++thread) function(thread);
  }
};

// The stages' kernels alone: of each launch so far: how many arguments have an addend, how many sums are written back,
// and the stream.
std::vector<std::tuple<int, int, uintptr_t>>& launches();

// Of each kernel of a normalisation so far: the images, the slices of each, and the stream.
std::vector<std::tuple<int64_t, int, uintptr_t>>& normalizations();

// Kernels of convolutions with their stages: the tile and the slots of each launch so far, the tile, the blocks,
// whose weights stay, and the times of each walk, and what they run on. `seed` draws the order in which blocks
// run, and a walk's go on. `warpgroups`: whose the products are, instead of warps'.
struct HostSteps {
  std::vector<std::tuple<int, int>> launches;
  std::vector<std::tuple<int, int64_t, std::vector<bool>, int>> walks;
  int processors = 1;
  FRCN_ISA::Copies copies = FRCN_ISA::Copies::late;
  bool warpgroups = false;
  int64_t most_room = 0, most_blocks = 0;
  unsigned seed = 0;
};
HostSteps& host_steps();

// What the next launches report instead of running; empty: they run.
std::string& failure();
