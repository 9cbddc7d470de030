// What was compiled for each instruction set, and which of it this processor can run.
#pragma once

#include <string>
#include <vector>

#include "conv_recurrent/normalize.h"
#include "conv_recurrent/stage.h"
#include "convolution/convolution.h"
#include "relu_maxpool3d/pool.h"

namespace frcn {

struct Kernels {
  const StageTable* stages;
  const ConvolutionTable* convolutions;
  const PoolTable* pools;
  const NormalizeTable* normalizes;
};

std::vector<std::string> built_isas();

// Those of them that this processor has, best last.
std::vector<std::string> usable_isas();

// Throws std::invalid_argument where the instruction set is not usable.
Kernels find_kernels(const std::string& isa);

}  // namespace frcn
