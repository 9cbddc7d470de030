// What stages.cpp has for its Python module.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "conv_recurrent/stage_kernels.h"

frcn::StageKernels kernels_of(frcn::DataType type);

// Of each launch so far: how many arguments have an addend, how many sums are written back, and the stream.
std::vector<std::tuple<int, int, uintptr_t>>& launches();

// What the next launches report instead of running; empty: they run.
std::string& failure();
