// The passes over whole tensors, shared out among threads.
#pragma once

#include "relu_maxpool3d/pool.h"

namespace frcn {

void pool_forward(const PoolFunctions& f, const PoolArgs& a, int threads);
void pool_backward(const PoolFunctions& f, const PoolArgs& a, int threads);

// Into totals (2, channels).
void pool_sums(const PoolFunctions& f, const PoolArgs& a, int threads, double* totals);
void pool_statistics(const PoolFunctions& f, const PoolArgs& a, int threads, double* totals);

}  // namespace frcn
