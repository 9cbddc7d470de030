// Runs the kernels of the pooling passes on the host, each call of a block's threads one after another.
//
//   passes REQUESTS RESULTS
//
// REQUESTS: for each call 32 numbers of 64 bits (see Request), then its buffers. RESULTS: what the calls wrote.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "relu_maxpool3d/pool_dispatch.h"

namespace {

struct HostBlock {
  template <class Function>
  void each(Function function) const {
    for (int thread = 0; thread < FRCN_ISA::kSumThreads; ++thread) function(thread);
  }
};

// Few threads and blocks, so that they take turns.
struct HostLaunch {
  static constexpr int64_t kBlocks = 2;

  template <class Body>
  std::string threads(const FRCN_ISA::DevicePool& p) const {
    const int64_t count = p.items / 3 + 1;
    for (int64_t thread = 0; thread < count; ++thread) Body::run(p, thread, count);
    return "";
  }

  template <class Body>
  std::string blocks(const FRCN_ISA::DeviceSums& s, int64_t groups, int parts) const {
    std::vector<double> room(Body::kRoom);
    for (int64_t group = 0; group < groups; ++group)
      for (int part = 0; part < parts; ++part) Body::run(s, HostBlock{}, room.data(), group, part);
    return "";
  }
};

enum { kMaps, kPooled, kIndex, kScale, kShift, kX, kCenter, kSlope, kOffset, kBuffers };

struct Request {
  int64_t pass, type, last, relu, gate;
  int64_t shape[5], pooled[3], window[12];
  int64_t skip;  // bytes by which maps are off their alignment
  int64_t rest[6];
};
static_assert(sizeof(Request) == 32 * 8);

// As large as asked for and no larger, so that the sanitizer sees what lies beyond.
struct Buffer {
  char* memory = nullptr;
  char* data = nullptr;
  int64_t bytes = 0;

  Buffer() = default;
  Buffer(int64_t bytes, int64_t skip) : bytes(bytes) {
    if (bytes == 0) return;
    memory = static_cast<char*>(std::malloc(bytes + skip));
    data = memory + skip;
  }
  Buffer(Buffer&& other) noexcept : memory(other.memory), data(other.data), bytes(other.bytes) {
    other.memory = nullptr;
  }
  ~Buffer() { std::free(memory); }
};

bool read(std::FILE* file, void* target, int64_t bytes) {
  return bytes == 0 || std::fread(target, bytes, 1, file) == 1;
}

std::string run(const Request& r, const std::vector<Buffer>& b, double* partials, double* totals) {
  frcn::PoolArgs a{};
  a.images = r.shape[0], a.channels = r.shape[1];
  for (int k = 0; k < 3; ++k) {
    a.size[k] = r.shape[2 + k], a.pooled_size[k] = r.pooled[k];
    a.kernel[k] = r.window[k], a.stride[k] = r.window[3 + k];
    a.padding[k] = r.window[6 + k], a.dilation[k] = r.window[9 + k];
  }
  a.last = r.last, a.relu = r.relu, a.gate = static_cast<frcn::Gate>(r.gate);
  a.maps = b[kMaps].data, a.pooled = b[kPooled].data, a.index = reinterpret_cast<uint8_t*>(b[kIndex].data);
  a.scale = b[kScale].data, a.shift = b[kShift].data, a.x = b[kX].data, a.center = b[kCenter].data;
  a.slope = b[kSlope].data, a.offset = b[kOffset].data;
  const int type = static_cast<int>(r.type);
  switch (r.pass) {
    case 0:
      return FRCN_ISA::run_forward(a, type, HostLaunch{});
    case 1:
      return FRCN_ISA::run_backward(a, type, HostLaunch{});
    case 2:
      return FRCN_ISA::run_sums(a, type, partials, totals, HostLaunch{});
    default:
      return FRCN_ISA::run_statistics(a, type, partials, totals, HostLaunch{});
  }
}

}  // namespace

int main(int, char** arguments) {
  std::FILE* requests = std::fopen(arguments[1], "rb");
  std::FILE* results = std::fopen(arguments[2], "wb");
  if (!requests || !results) return 2;
  Request r;
  while (std::fread(&r, sizeof r, 1, requests) == 1) {
    std::array<int64_t, kBuffers> bytes;
    if (!read(requests, bytes.data(), sizeof bytes)) return 2;
    std::vector<Buffer> buffers;
    for (int k = 0; k < kBuffers; ++k) {
      buffers.emplace_back(bytes[k], k == kMaps || k == kX ? r.skip : 0);
      if (!read(requests, buffers[k].data, bytes[k])) return 2;
    }
    std::vector<double> partials(FRCN_ISA::count_partials(r.shape[1])), totals(2 * r.shape[1]);
    const std::string wrong = run(r, buffers, partials.data(), totals.data());
    if (!wrong.empty()) {
      std::fprintf(stderr, "%s\n", wrong.c_str());
      return 3;
    }
    for (int k : {kMaps, kPooled, kIndex})
      if (bytes[k]) std::fwrite(buffers[k].data, bytes[k], 1, results);
    std::fwrite(totals.data(), sizeof(double), totals.size(), results);
  }
  std::fclose(requests);
  return std::fclose(results);
}
