#include "common/maps_last.h"

#include <algorithm>

#include "common/parallel.h"

namespace frcn {
namespace {

constexpr int64_t kTile = 16;  // pixels: one cache line of each channel is read, all their channels are written

template <class T>
void copy_tiles(const MapsLast& m, int64_t begin, int64_t end) {
  const int64_t tiles = (m.pixels + kTile - 1) / kTile;
  for (int64_t k = begin; k < end; ++k) {
    const int64_t map = k / tiles, first = k % tiles * kTile, count = std::min(kTile, m.pixels - first);
    const char* source = m.source + map / m.inner * m.outer_bytes + map % m.inner * m.inner_bytes;
    char* target = m.target + map / m.inner * m.target_outer_bytes + map % m.inner * m.target_inner_bytes;
    for (int64_t c = 0; c < m.channels; ++c) {
      const T* row = reinterpret_cast<const T*>(source + c * m.channel_bytes) + first;
      for (int64_t p = 0; p < count; ++p) reinterpret_cast<T*>(target + (first + p) * m.pixel_bytes)[c] = row[p];
    }
  }
}

void copy_part(void* context, int part, int parts) {
  const MapsLast& m = *static_cast<const MapsLast*>(context);
  const int64_t tiles = m.outer * m.inner * ((m.pixels + kTile - 1) / kTile);
  const int64_t begin = tiles * part / parts, end = tiles * (part + 1) / parts;
  const auto copy = m.element == 8   ? copy_tiles<uint64_t>
                    : m.element == 4 ? copy_tiles<uint32_t>
                    : m.element == 2 ? copy_tiles<uint16_t>
                                     : copy_tiles<uint8_t>;
  copy(m, begin, end);
}

}  // namespace

void copy_maps_last(const MapsLast& m, int threads) {
  const bool small = m.outer * m.inner * m.pixels * m.channels < (1 << 14);
  parallel(small ? 1 : threads, copy_part, const_cast<MapsLast*>(&m));
}

}  // namespace frcn
