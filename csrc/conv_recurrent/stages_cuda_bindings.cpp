// The stages and normalisations on a GPU as Python functions.
#if defined(FASTRCN_WITH_CUDA)
#include "bindings.h"
#include "conv_recurrent/normalize_cuda.h"
#include "conv_recurrent/stage_bindings.h"
#include "conv_recurrent/stages_cuda.h"
#include "conv_recurrent/steps_cuda.h"
#include "cuda_stage_source.h"

void bind_cuda_stages(pybind11::module_& m) {
  frcn::bind_stages(m, {frcn::cuda_stages, frcn::cuda_steps}, frcn::cuda_normalize);
  m.attr("cuda_stage_source") = fastrcn_cuda_stage_source;
}
#endif
