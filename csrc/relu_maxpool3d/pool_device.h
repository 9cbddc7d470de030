// The passes forward and backward as a GPU thread sees them. They run on the host too, thread after thread.
//
// Channels-last, a thread's V lanes are channels of one pixel. Contiguous maps are taken as images of one channel, one
// lane each; where the windows tile whole vectors of a row, the lanes are its columns instead (the ...Rows). Backward,
// each value has one thread that sums what its windows pass, so that every run gives the same bits.
#pragma once

#include <cstdint>

#include "common/pack.h"
#include "relu_maxpool3d/pool.h"

namespace FRCN_ISA {

using frcn::Gate;

// PoolArgs as kernels take it. Inside a row 32 bits hold an offset; rows, frames and images are 64 bits apart.
struct DevicePool {
  int64_t items;  // what threads take in turn: [image][frame][row][column][vector]
  LongDivisor items_per_image;
  Divisor vectors, columns, rows;
  Divisor channels;
  Divisor stride_by[3], dilation_by[3];
  int size[3], pooled_size[3], kernel[3], stride[3], padding[3], dilation[3];
  int pixel;  // elements between neighbouring columns
  int64_t row_step, frame_step, image_step, pooled_row_step, pooled_frame_step, pooled_image_step;
  bool last, relu;
  Gate gate;
  char* maps;
  char* pooled;
  uint8_t* index;
  const char *scale, *shift, *x, *center, *slope, *offset;
};

struct Place {
  int64_t image;
  int frame, row, column, vector;
};

FRCN_HD Place find_place(const DevicePool& a, int64_t item) {
  Place p;
  p.image = a.items_per_image.divide(item);
  auto rest = static_cast<uint32_t>(item - p.image * a.items_per_image.value);
  p.vector = take_digit(rest, a.vectors);
  p.column = take_digit(rest, a.columns);
  p.row = take_digit(rest, a.rows);
  p.frame = static_cast<int>(rest);
  return p;
}

// Number of the first coefficient that a thread needs.
template <int V>
FRCN_HD int64_t find_channel(const DevicePool& a, const Place& p) {
  if (a.last) return static_cast<int64_t>(p.vector) * V;
  auto image = static_cast<uint32_t>(p.image);
  return take_digit(image, a.channels);
}

FRCN_HD bool is_inside(int at, int size) { return static_cast<unsigned>(at) < static_cast<unsigned>(size); }

// The first cell of a window at `start` that is not in the padding.
FRCN_HD int first_cell(const DevicePool& a, int axis, int start) {
  return start >= 0 ? 0 : static_cast<int>(a.dilation_by[axis].divide(a.dilation[axis] - 1 - start));
}

// The largest of the cells seen so far, PyTorch's rule: the first of equal ones, the last NaN.
template <class T, class A, int V>
struct Best {
  A value[V], factor[V], term[V];
  int cell[V];

  FRCN_HD void start(int first) {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      value[j] = -static_cast<A>(HUGE_VAL);
      cell[j] = first;
    }
  }

  FRCN_HD void take_lane(int j, const T& stored, A scale, A shift, int number) {
    const A found = load<A>(stored) * scale + shift;
    const bool better = found > value[j] || found != found;
    value[j] = better ? found : value[j];
    cell[j] = better ? number : cell[j];
  }

  FRCN_HD void take(const Pack<T, V>& pack, int number) {
#pragma unroll
    for (int j = 0; j < V; ++j) take_lane(j, pack.lanes[j], factor[j], term[j], number);
  }

  FRCN_HD void write(const DevicePool& a, int64_t at) {
    Pack<T, V> out;
    Pack<uint8_t, V> index;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const bool closed = a.relu && value[j] <= A(0);
      store(out.lanes[j], closed ? A(0) : value[j]);
      index.lanes[j] = static_cast<uint8_t>(closed ? frcn::kClosed : cell[j]);
    }
    store_pack(reinterpret_cast<T*>(a.pooled) + at, out);
    if (a.index) store_pack(a.index + at, index);
  }
};

// KW: the window's columns where they are known when this is compiled, so that their loads run ahead; else 0.
template <class T, class A, int V, int KW>
struct ForwardPixels {
  static constexpr int kLanes = V;

  static FRCN_HD void run(const DevicePool& a, int64_t first, int64_t step) {
    for (int64_t item = first; item < a.items; item += step) {
      const Place p = find_place(a, item);
      Best<T, A, V> best;
      const int64_t channel = find_channel<V>(a, p);
      load_coefficients<V>(reinterpret_cast<const A*>(a.scale), channel, A(1), best.factor);
      load_coefficients<V>(reinterpret_cast<const A*>(a.shift), channel, A(0), best.term);
      const int d = p.frame * a.stride[0] - a.padding[0], h = p.row * a.stride[1] - a.padding[1];
      const int w = p.column * a.stride[2] - a.padding[2];
      const int i0 = first_cell(a, 0, d), j0 = first_cell(a, 1, h), k0 = first_cell(a, 2, w);
      best.start((i0 * a.kernel[1] + j0) * a.kernel[2] + k0);
      const T* image = reinterpret_cast<const T*>(a.maps) + p.image * a.image_step + p.vector * V;
      for (int i = i0; i < a.kernel[0] && d + i * a.dilation[0] < a.size[0]; ++i) {
        const T* plane = image + (d + i * a.dilation[0]) * a.frame_step;
#pragma unroll 1
        for (int j = j0; j < a.kernel[1] && h + j * a.dilation[1] < a.size[1]; ++j) {
          const T* line = plane + (h + j * a.dilation[1]) * a.row_step;
          const int number = (i * a.kernel[1] + j) * a.kernel[2];
          if constexpr (KW > 0) {
            take_columns(a, line, w, number, best);
          } else {
            for (int k = k0; k < a.kernel[2] && w + k * a.dilation[2] < a.size[2]; ++k)
              best.take(load_pack<V>(line + (w + k * a.dilation[2]) * a.pixel), number + k);
          }
        }
      }
      best.write(a, p.image * a.pooled_image_step + p.frame * a.pooled_frame_step + p.row * a.pooled_row_step +
                        static_cast<int64_t>(p.column) * a.pixel + p.vector * V);
    }
  }

  static FRCN_HD void take_columns(const DevicePool& a, const T* line, int w, int number, Best<T, A, V>& best) {
    Pack<T, V> packs[KW > 0 ? KW : 1];
    bool inside[KW > 0 ? KW : 1];
#pragma unroll
    for (int k = 0; k < KW; ++k) {
      const int column = w + k * a.dilation[2];
      inside[k] = is_inside(column, a.size[2]);
      if (inside[k]) packs[k] = load_pack<V>(line + column * a.pixel);
    }
#pragma unroll
    for (int k = 0; k < KW; ++k)
      if (inside[k]) best.take(packs[k], number + k);
  }
};

// Contiguous; windows of KW columns tile the rows, of which a thread takes V columns.
template <class T, class A, int V, int KH, int KW>
struct ForwardRows {
  static constexpr int kLanes = V, kWindows = V / KW;

  static FRCN_HD void run(const DevicePool& a, int64_t first, int64_t step) {
    for (int64_t item = first; item < a.items; item += step) {
      const Place p = find_place(a, item);
      const int64_t channel = find_channel<V>(a, p);
      const A scale = a.scale ? reinterpret_cast<const A*>(a.scale)[channel] : A(1);
      const A shift = a.shift ? reinterpret_cast<const A*>(a.shift)[channel] : A(0);
      const int d = p.frame * a.stride[0] - a.padding[0], h = p.row * a.stride[1] - a.padding[1];
      const int i0 = first_cell(a, 0, d), j0 = first_cell(a, 1, h);
      Best<T, A, kWindows> best;
      best.start((i0 * KH + j0) * KW);
      const T* image = reinterpret_cast<const T*>(a.maps) + p.image * a.image_step + p.vector * V;
      for (int i = i0; i < a.kernel[0]; ++i) {
        const int frame = d + i * a.dilation[0];
        if (frame >= a.size[0]) break;
#pragma unroll
        for (int j = 0; j < KH; ++j) {
          const int row = h + j * a.dilation[1];
          if (!is_inside(row, a.size[1])) continue;
          const auto pack = load_pack<V>(image + frame * a.frame_step + row * a.row_step);
#pragma unroll
          for (int column = 0; column < V; ++column)
            best.take_lane(column / KW, pack.lanes[column], scale, shift, (i * KH + j) * KW + column % KW);
        }
      }
      best.write(a, p.image * a.pooled_image_step + p.frame * a.pooled_frame_step + p.row * a.pooled_row_step +
                        p.vector * kWindows);
    }
  }
};

// What V windows pass, and to which of their cells; to none where `chosen` is kClosed.
template <class T, class A, int V>
struct Passed {
  A grad[V];
  int chosen[V];

  FRCN_HD void load_at(const DevicePool& a, int64_t at) {
    const auto pack = load_pack<V>(reinterpret_cast<const T*>(a.pooled) + at);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      grad[j] = load<A>(pack.lanes[j]);
      chosen[j] = 0;
    }
    if (a.gate == Gate::index) {
      const auto index = load_pack<V>(a.index + at);
#pragma unroll
      for (int j = 0; j < V; ++j) chosen[j] = index.lanes[j];
    } else if (a.gate == Gate::value) {
      const auto value = load_pack<V>(reinterpret_cast<const T*>(a.index) + at);
#pragma unroll
      for (int j = 0; j < V; ++j) chosen[j] = load<A>(value.lanes[j]) <= A(0) ? frcn::kClosed : 0;
    }
  }

  FRCN_HD void close() {
#pragma unroll
    for (int j = 0; j < V; ++j) grad[j] = A(0), chosen[j] = frcn::kClosed;
  }

  FRCN_HD A to(int j, int number) const { return chosen[j] == number ? grad[j] : A(0); }
};

// Adds slope * (x - center) + offset, where there is x, and writes. kStride: 1 where each lane has its own
// coefficients, 0 where all share one.
template <class T, class A, int V, int kStride>
FRCN_HD void write_maps(const DevicePool& a, int64_t channel, int64_t at, A* total) {
  if (a.x) {
    constexpr int kOwn = kStride ? V : 1;
    A slope[kOwn], center[kOwn], offset[kOwn];
    load_coefficients<kOwn>(reinterpret_cast<const A*>(a.slope), channel, A(0), slope);
    load_coefficients<kOwn>(reinterpret_cast<const A*>(a.center), channel, A(0), center);
    load_coefficients<kOwn>(reinterpret_cast<const A*>(a.offset), channel, A(0), offset);
    const auto x = load_pack<V>(reinterpret_cast<const T*>(a.x) + at);
#pragma unroll
    for (int j = 0; j < V; ++j)
      total[j] += slope[j * kStride] * (load<A>(x.lanes[j]) - center[j * kStride]) + offset[j * kStride];
  }
  Pack<T, V> out;
#pragma unroll
  for (int j = 0; j < V; ++j) store(out.lanes[j], total[j]);
  store_pack(reinterpret_cast<T*>(a.maps) + at, out);
}

// Windows tile the maps (stride = kernel): a thread reads one and writes its cells, and those behind the last window.
template <class T, class A, int V, int KH, int KW>
struct BackwardTiles {
  static constexpr int kLanes = V;

  static FRCN_HD void run(const DevicePool& a, int64_t first, int64_t step) {
    for (int64_t item = first; item < a.items; item += step) {
      const Place p = find_place(a, item);
      const int64_t channel = find_channel<V>(a, p);
      Passed<T, A, V> passed;
      if (p.frame < a.pooled_size[0] && p.row < a.pooled_size[1] && p.column < a.pooled_size[2]) {
        passed.load_at(a, p.image * a.pooled_image_step + p.frame * a.pooled_frame_step + p.row * a.pooled_row_step +
                              static_cast<int64_t>(p.column) * a.pixel + p.vector * V);
        A scale[V];
        load_coefficients<V>(reinterpret_cast<const A*>(a.scale), channel, A(1), scale);
#pragma unroll
        for (int j = 0; j < V; ++j) passed.grad[j] *= scale[j];
      } else {
        passed.close();
      }
      const int d = p.frame * a.kernel[0] - a.padding[0], h = p.row * KH - a.padding[1];
      const int w = p.column * KW - a.padding[2];
      for (int i = 0; i < a.kernel[0]; ++i) {
        if (!is_inside(d + i, a.size[0])) continue;
        const int64_t plane = p.image * a.image_step + (d + i) * a.frame_step + p.vector * V;
#pragma unroll
        for (int cell = 0; cell < KH * KW; ++cell) {
          const int row = h + cell / KW, column = w + cell % KW;
          if (!is_inside(row, a.size[1]) || !is_inside(column, a.size[2])) continue;
          A total[V];
#pragma unroll
          for (int j = 0; j < V; ++j) total[j] = passed.to(j, i * KH * KW + cell);
          write_maps<T, A, V, 1>(a, channel, plane + row * a.row_step + column * a.pixel, total);
        }
      }
    }
  }
};

// The same for contiguous maps whose windows tile vectors of V columns.
template <class T, class A, int V, int KH, int KW>
struct BackwardRows {
  static constexpr int kLanes = V;

  static FRCN_HD void run(const DevicePool& a, int64_t first, int64_t step) {
    constexpr int kWindows = V / KW;
    for (int64_t item = first; item < a.items; item += step) {
      const Place p = find_place(a, item);
      const int64_t channel = find_channel<V>(a, p);
      Passed<T, A, kWindows> passed;
      if (p.frame < a.pooled_size[0] && p.row < a.pooled_size[1]) {
        passed.load_at(a, p.image * a.pooled_image_step + p.frame * a.pooled_frame_step + p.row * a.pooled_row_step +
                              p.vector * kWindows);
        const A scale = a.scale ? reinterpret_cast<const A*>(a.scale)[channel] : A(1);
#pragma unroll
        for (int j = 0; j < kWindows; ++j) passed.grad[j] *= scale;
      } else {
        passed.close();
      }
      const int d = p.frame * a.kernel[0] - a.padding[0], h = p.row * KH - a.padding[1];
      for (int i = 0; i < a.kernel[0]; ++i) {
        if (!is_inside(d + i, a.size[0])) continue;
#pragma unroll
        for (int j = 0; j < KH; ++j) {
          if (!is_inside(h + j, a.size[1])) continue;
          A total[V];
#pragma unroll
          for (int k = 0; k < V; ++k) total[k] = passed.to(k / KW, (i * KH + j) * KW + k % KW);
          write_maps<T, A, V, 0>(
              a, channel, p.image * a.image_step + (d + i) * a.frame_step + (h + j) * a.row_step + p.vector * V, total);
        }
      }
    }
  }
};

// The windows along one axis that may cover a place.
struct Windows {
  int first, last, place;
  FRCN_HD Windows(const DevicePool& a, int axis, int at) : place(at + a.padding[axis]) {
    const int reach = place - (a.kernel[axis] - 1) * a.dilation[axis];
    first = reach <= 0 ? 0 : static_cast<int>(a.stride_by[axis].divide(reach + a.stride[axis] - 1));
    last = static_cast<int>(a.stride_by[axis].divide(place));
    last = last < a.pooled_size[axis] ? last : a.pooled_size[axis] - 1;
  }

  // The cell of a window that lies at the place; -1 where it falls between cells.
  FRCN_HD int cell(const DevicePool& a, int axis, int window) const {
    const int distance = place - window * a.stride[axis];
    const int cell = static_cast<int>(a.dilation_by[axis].divide(distance));
    return cell * a.dilation[axis] == distance ? cell : -1;
  }
};

// Any window: a thread sums over those that cover its pixel.
template <class T, class A, int V>
struct BackwardPixels {
  static constexpr int kLanes = V;

  static FRCN_HD void run(const DevicePool& a, int64_t first, int64_t step) {
    for (int64_t item = first; item < a.items; item += step) {
      const Place p = find_place(a, item);
      A total[V];
#pragma unroll
      for (int j = 0; j < V; ++j) total[j] = A(0);
      const Windows frames(a, 0, p.frame), rows(a, 1, p.row), columns(a, 2, p.column);
      for (int d = frames.first; d <= frames.last; ++d) {
        const int i = frames.cell(a, 0, d);
        if (i < 0) continue;
        for (int h = rows.first; h <= rows.last; ++h) {
          const int j = rows.cell(a, 1, h);
          if (j < 0) continue;
          const int64_t line = p.image * a.pooled_image_step + d * a.pooled_frame_step + h * a.pooled_row_step;
          for (int w = columns.first; w <= columns.last; ++w) {
            const int k = columns.cell(a, 2, w);
            if (k < 0) continue;
            Passed<T, A, V> passed;
            passed.load_at(a, line + static_cast<int64_t>(w) * a.pixel + p.vector * V);
#pragma unroll
            for (int n = 0; n < V; ++n) total[n] += passed.to(n, (i * a.kernel[1] + j) * a.kernel[2] + k);
          }
        }
      }
      const int64_t channel = find_channel<V>(a, p);
      A scale[V];
      load_coefficients<V>(reinterpret_cast<const A*>(a.scale), channel, A(1), scale);
#pragma unroll
      for (int j = 0; j < V; ++j) total[j] = total[j] == A(0) ? A(0) : total[j] * scale[j];
      write_maps<T, A, V, 1>(a, channel,
                             p.image * a.image_step + p.frame * a.frame_step + p.row * a.row_step +
                                 static_cast<int64_t>(p.column) * a.pixel + p.vector * V,
                             total);
    }
  }
};

}  // namespace FRCN_ISA
