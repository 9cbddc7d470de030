// One thread pool per process: PyTorch's. Its OpenMP runtime is already loaded; a second one would fight it for
// the cores. So nothing here links OpenMP: the entry points are looked up in the process, and without them the
// work runs on the calling thread.
#pragma once

#include <cstdint>

namespace frcn {

constexpr int64_t kSerialWork = 65536;  // multiply-adds below which a second thread costs more than it brings

// Calls body(context, part, parts) for every part, in parallel where an OpenMP runtime was found.
void parallel(int threads, void (*body)(void*, int part, int parts), void* context);

// Whether an OpenMP runtime was found in the process.
bool parallel_runtime_found();

}  // namespace frcn
