#include "kernels.h"

#include <stdexcept>

#define FRCN_DECLARE(ISA)                                \
  namespace ISA {                                        \
  extern const frcn::StageTable stage_table;             \
  extern const frcn::ConvolutionTable convolution_table; \
  extern const frcn::PoolTable pool_table;               \
  extern const frcn::NormalizeTable normalize_table;     \
  }

FRCN_DECLARE(base)
#if defined(FASTRCN_WITH_AVX2)
FRCN_DECLARE(avx2)
#endif
#if defined(FASTRCN_WITH_AVX512)
FRCN_DECLARE(avx512)
#endif

namespace frcn {
namespace {

std::vector<Kernels> usable_kernels() {
  std::vector<Kernels> found{{&base::stage_table, &base::convolution_table, &base::pool_table, &base::normalize_table}};
#if defined(FASTRCN_WITH_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    found.push_back({&avx2::stage_table, &avx2::convolution_table, &avx2::pool_table, &avx2::normalize_table});
#endif
#if defined(FASTRCN_WITH_AVX512)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    found.push_back({&avx512::stage_table, &avx512::convolution_table, &avx512::pool_table, &avx512::normalize_table});
#endif
  return found;
}

}  // namespace

std::vector<std::string> built_isas() {
  std::vector<std::string> names{"base"};
#if defined(FASTRCN_WITH_AVX2)
  names.push_back("avx2");
#endif
#if defined(FASTRCN_WITH_AVX512)
  names.push_back("avx512");
#endif
  return names;
}

std::vector<std::string> usable_isas() {
  std::vector<std::string> names;
  for (const auto& kernels : usable_kernels()) names.push_back(kernels.stages->isa);
  return names;
}

Kernels find_kernels(const std::string& isa) {
  for (const auto& kernels : usable_kernels())
    if (isa == kernels.stages->isa) return kernels;
  throw std::invalid_argument("fastrcn: instruction set " + isa + " is not usable here");
}

}  // namespace frcn
