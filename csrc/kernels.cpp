#include "kernels.h"

#include <stdexcept>

#if defined(FASTRCN_WITH_AVX512_BF16)
#include <cpuid.h>
#endif

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
#if defined(FASTRCN_WITH_AVX512_BF16)
FRCN_DECLARE(avx512_bf16)
#endif

namespace frcn {
namespace {

#define FRCN_KERNELS(ISA) {&ISA::stage_table, &ISA::convolution_table, &ISA::pool_table, &ISA::normalize_table}

#if defined(FASTRCN_WITH_AVX512_BF16)
// Not every compiler that has the instructions knows their name in __builtin_cpu_supports.
bool supports_avx512_bf16() {
  static const bool found = [] {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
  }();
  return found;
}
#endif

std::vector<Kernels> usable_kernels() {
  std::vector<Kernels> found{FRCN_KERNELS(base)};
#if defined(FASTRCN_WITH_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(FRCN_KERNELS(avx2));
#endif
#if defined(FASTRCN_WITH_AVX512)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    found.push_back(FRCN_KERNELS(avx512));
#if defined(FASTRCN_WITH_AVX512_BF16)
    if (supports_avx512_bf16()) found.push_back(FRCN_KERNELS(avx512_bf16));
#endif
  }
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
#if defined(FASTRCN_WITH_AVX512_BF16)
  names.push_back("avx512_bf16");
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
