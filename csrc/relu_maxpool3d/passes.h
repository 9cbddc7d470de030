// The passes over whole tensors, shared out among threads.
#pragma once

#include "relu_maxpool3d/pool.h"

namespace frcn {

void pool_forward(const PoolFunctions& f, const PoolArgs& a, int threads);
void pool_backward(const PoolFunctions& f, const PoolArgs& a, int threads);

// Of float or, `wide`, of double: both sums (2, channels); mean and biased variance (channels).
void pool_sums(const PoolFunctions& f, const PoolArgs& a, int threads, bool wide, void* sums);
void pool_statistics(const PoolFunctions& f, const PoolArgs& a, int threads, bool wide, void* mean, void* var);

}  // namespace frcn
