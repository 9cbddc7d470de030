// Which kernels normalise. A Launch is made of `where` and starts them, on a GPU or in tests on the host:
//   launch.template slices<Body>(const DeviceNormalize&, int64_t images)
// returns an empty text or what went wrong.
#pragma once

#include <stdexcept>
#include <string>

#include "conv_recurrent/normalize_device.h"
#include "conv_recurrent/normalize_kernels.h"

namespace FRCN_ISA {

template <class Pass, class Launch>
std::string run_normalize_packs(const frcn::NormalizeLaunch& given, const Launch& launch) {
  DeviceNormalize a{};
  a.target = given.target;
  a.source = given.source;
  a.scale = given.scale;
  a.sums = given.sums;
  a.values = given.values;
  a.packs = given.values / Pass::kLanes;
  a.slices = static_cast<int>(given.slices);
  a.slice_packs = (a.packs + a.slices - 1) / a.slices;
  a.eps = given.eps;
  if (a.slices > 1) {
    const std::string problem = launch.template slices<SumSlices<Pass>>(a, given.images);
    if (!problem.empty()) return problem;
  }
  return launch.template slices<ChangeSlices<Pass>>(a, given.images);
}

template <template <class, class, int> class Pass, class T, class A, class Launch>
std::string run_normalize(const frcn::NormalizeLaunch& given, void* where) {
  static_assert(sizeof(typename Pass<T, A, 1>::Sums) <= frcn::kSliceSums * sizeof(A), "no room for a slice's sums");
  constexpr int kMostImages = 0x7fffffff, kMostSlices = 0xffff;  // of a grid
  if (given.images > kMostImages || given.slices < 1 || given.slices > kMostSlices || (given.slices > 1 && !given.sums))
    throw std::invalid_argument("fastrcn: a normalisation of " + std::to_string(given.images) + " images in " +
                                std::to_string(given.slices) + " slices expects fewer, and room for their sums");
  if (given.images == 0 || given.values == 0) return "";
  constexpr int kLanes = 16 / sizeof(T);
  const Launch launch{where};
  if (given.values % kLanes == 0 && is_aligned(given.target) && is_aligned(given.source))
    return run_normalize_packs<Pass<T, A, kLanes>>(given, launch);
  return run_normalize_packs<Pass<T, A, 1>>(given, launch);
}

// Of maps of type T, with sums in A.
template <class T, class A, class Launch>
frcn::NormalizeKernels normalize_kernels() {
  return {run_normalize<NormalizeForward, T, A, Launch>, run_normalize<NormalizeBackward, T, A, Launch>};
}

}  // namespace FRCN_ISA
