// The emitted stages as loops over pixels, compiled once per instruction set (FRCN_ISA: base, avx2, avx512,
// avx512_bf16) into the extension, and for other cells into libraries of their own (FRCN_STAGE_LIBRARY).
#include "conv_recurrent/rows.h"

namespace FRCN_ISA {

template <class Rows>
void run_rows(const StageArgs& given, int64_t begin, int64_t end) {
  const StageArgs a = given;
  const int64_t channels = a.channels;
  for (int64_t p = begin; p < end; ++p) {
    if (a.lengths && a.time >= a.lengths[p / a.pixels_per_image]) {
#pragma omp simd
      for (int64_t i = 0; i < channels; ++i) Rows::channel(a, p, i, true);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < channels; ++i) Rows::channel(a, p, i, false);
    }
  }
}

// clang-format off
#define FRCN_ENTRY(NAME, FINGERPRINT, STAGE, BACKWARD, GRADIENTS)                                    \
  {FINGERPRINT, STAGE, BACKWARD, frcn::DataType::float32, NAME##_rows<float, float>::arguments,      \
   GRADIENTS, run_rows<NAME##_rows<float, float>>},                                                  \
      {FINGERPRINT, STAGE, BACKWARD, frcn::DataType::float64, NAME##_rows<float, float>::arguments,  \
       GRADIENTS, run_rows<NAME##_rows<double, double>>},                                            \
      {FINGERPRINT, STAGE, BACKWARD, frcn::DataType::bfloat16, NAME##_rows<float, float>::arguments, \
       GRADIENTS, run_rows<NAME##_rows<bfloat16, float>>},
// clang-format on

static const frcn::StageEntry entries[] = {FRCN_STAGES(FRCN_ENTRY)};

#define FRCN_TEXT_(x) #x
#define FRCN_TEXT(x) FRCN_TEXT_(x)

extern const frcn::StageTable stage_table;
const frcn::StageTable stage_table = {FRCN_TEXT(FRCN_ISA), entries, sizeof entries / sizeof entries[0]};

}  // namespace FRCN_ISA

#if defined(FRCN_STAGE_LIBRARY)
extern "C" {
extern const frcn::StageLibrary fastrcn_stage_library __attribute__((visibility("default")));
const frcn::StageLibrary fastrcn_stage_library = {frcn::kStageAbi, &FRCN_ISA::stage_table};
}
#endif
