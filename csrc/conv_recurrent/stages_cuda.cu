#include "conv_recurrent/stages_cuda.h"

#include "conv_recurrent/rows.h"

namespace FRCN_ISA {
namespace {

constexpr int kThreads = 256;

template <class Rows>
__global__ void __launch_bounds__(kThreads) stage_kernel(const StageArgs a, int64_t pixels) {
  const int64_t total = pixels * a.channels, stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; k < total; k += stride) {
    const int64_t p = k / a.channels;
    const bool ended = a.lengths && a.time >= a.lengths[p / a.pixels_per_image];
    Rows::channel(a, p, k - p * a.channels, ended);
  }
}

using Launch = cudaError_t (*)(const StageArgs&, int64_t, cudaStream_t);

template <class Rows>
cudaError_t launch(const StageArgs& a, int64_t pixels, cudaStream_t stream) {
  const int64_t blocks = (pixels * a.channels + kThreads - 1) / kThreads;
  if (blocks == 0) return cudaSuccess;
  stage_kernel<Rows><<<static_cast<unsigned>(blocks < 65535 ? blocks : 65535), kThreads, 0, stream>>>(a, pixels);
  return cudaGetLastError();
}

struct Entry {
  const char* fingerprint;
  int stage;
  bool backward;
  frcn::DataType type;
  int gradients;
  Launch launch;
};

// clang-format off
#define FRCN_ENTRY(NAME, FINGERPRINT, STAGE, BACKWARD, GRADIENTS)                                                  \
  {FINGERPRINT, STAGE, BACKWARD, frcn::DataType::float32, GRADIENTS, launch<NAME##_rows<float, float>>},           \
      {FINGERPRINT, STAGE, BACKWARD, frcn::DataType::bfloat16, GRADIENTS, launch<NAME##_rows<bfloat16, float>>},
// clang-format on

const Entry entries[] = {FRCN_STAGES(FRCN_ENTRY)};

}  // namespace
}  // namespace FRCN_ISA

namespace frcn {

std::string launch_cuda_stage(const std::string& fingerprint, int stage, bool backward, DataType type,
                              const StageArgs& args, int64_t pixels, void* stream) {
  for (const auto& e : FRCN_ISA::entries) {
    if (fingerprint != e.fingerprint || stage != e.stage || backward != e.backward || type != e.type) continue;
    if (e.gradients) return "this stage sums parameter gradients, which the CUDA kernels do not do";
    const cudaError_t status = e.launch(args, pixels, static_cast<cudaStream_t>(stream));
    return status == cudaSuccess ? "" : cudaGetErrorString(status);
  }
  return "no CUDA kernel of this stage and data type";
}

}  // namespace frcn
