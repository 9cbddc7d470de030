// The passes, compiled once per instruction set (FRCN_ISA: base, avx2, avx512, avx512_bf16).
//
// Channels-last, a vector holds channels of one pixel; contiguous, it holds neighbouring windows of one channel. A
// backward pass goes by rows of the maps, not of the windows, so that no two threads add to the same value.
#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "common/vector.h"
#include "relu_maxpool3d/pool.h"

namespace FRCN_ISA {
namespace {

using frcn::Gate;
using frcn::PoolArgs;

// A line of the maps that windows of one pooled row cover, and the number of its first cell.
template <class T>
struct Line {
  T* data;
  int cell;
};

// The cells kw of a window at `start` that lie inside a row of `width`.
struct Columns {
  int64_t first, last;
  Columns(int64_t start, int64_t kernel, int64_t dilation, int64_t width)
      : first(start >= 0 ? 0 : (-start + dilation - 1) / dilation),
        last(std::min(kernel, start >= width ? 0 : (width - 1 - start) / dilation + 1)) {}
};

// Lines of one image (and channel) for the pooled row (frame, row).
template <class T>
int find_lines(const PoolArgs& a, T* plane, int64_t frame, int64_t row, Line<T>* lines) {
  int count = 0;
  for (int64_t i = 0; i < a.kernel[0]; ++i) {
    const int64_t d = frame * a.stride[0] - a.padding[0] + i * a.dilation[0];
    if (d < 0 || d >= a.size[0]) continue;
    for (int64_t j = 0; j < a.kernel[1]; ++j) {
      const int64_t h = row * a.stride[1] - a.padding[1] + j * a.dilation[1];
      if (h < 0 || h >= a.size[1]) continue;
      lines[count++] = {plane + d * a.step[2] + h * a.step[3], static_cast<int>((i * a.kernel[1] + j) * a.kernel[2])};
    }
  }
  return count;
}

// Lines of the pooled maps whose windows cover the row (frame, row) of the maps.
struct Cover {
  int64_t offset;  // in pooled rows
  int cell;
};

inline int find_covers(const PoolArgs& a, int64_t frame, int64_t row, Cover* covers) {
  int count = 0;
  for (int64_t i = 0; i < a.kernel[0]; ++i) {
    const int64_t d = frame + a.padding[0] - i * a.dilation[0];
    if (d < 0 || d % a.stride[0] || d / a.stride[0] >= a.pooled_size[0]) continue;
    for (int64_t j = 0; j < a.kernel[1]; ++j) {
      const int64_t h = row + a.padding[1] - j * a.dilation[1];
      if (h < 0 || h % a.stride[1] || h / a.stride[1] >= a.pooled_size[1]) continue;
      covers[count++] = {d / a.stride[0] * a.pooled_size[1] + h / a.stride[1],
                         static_cast<int>((i * a.kernel[1] + j) * a.kernel[2])};
    }
  }
  return count;
}

// The largest of the cells seen so far, PyTorch's rule: the first of equal ones, the last NaN. Of values or vectors.
template <class V, class W>
FRCN_HD void take(V value, W cell, V& best, W& chosen) {
  const auto better = (value > best) | (value != value);
  best = better ? value : best;
  chosen = better ? cell : chosen;
}

// ---- forward, channels-last

template <class T>
struct Cell {
  const T* data;
  int number;
};

// Those of the w-th window of a pooled row, whose lines are given, in maps of c channels.
template <class T>
int find_cells(const PoolArgs& a, const Line<const T>* lines, int count, int64_t w, int64_t c, Cell<T>* cells) {
  const int64_t start = w * a.stride[2] - a.padding[2];
  const Columns columns(start, a.kernel[2], a.dilation[2], a.size[2]);
  int n = 0;
  for (int k = 0; k < count; ++k)
    for (int64_t i = columns.first; i < columns.last; ++i)
      cells[n++] = {lines[k].data + (start + i * a.dilation[2]) * c, lines[k].cell + static_cast<int>(i)};
  return n;
}

// A vector of channels from `c` on.
template <class T, class A>
FRCN_HD void pool_vector(const Cell<T>* cells, int count, int64_t c, const A* scale, const A* shift, bool relu, T* out,
                         uint8_t* index) {
  using V = typename Vector<A>::Type;
  using W = typename Vector<Whole<A>>::Type;
  const V factor = scale ? load_vector(scale + c) : all<V>(A(1)), term = shift ? load_vector(shift + c) : V{};
  V best = load_vector<A>(cells[0].data + c) * factor + term;
  W chosen = all<W>(Whole<A>(cells[0].number));
  for (int k = 1; k < count; ++k)
    take(V(load_vector<A>(cells[k].data + c) * factor + term), all<W>(Whole<A>(cells[k].number)), best, chosen);
  if (relu) {
    const W closed = best <= V{};
    best = closed ? V{} : best;
    chosen = closed ? all<W>(Whole<A>(frcn::kClosed)) : chosen;
  }
  store_vector(out + c, best);
  if (index) store_bytes<A>(index + c, chosen);
}

template <class T, class A>
FRCN_HD void pool_value(const Cell<T>* cells, int count, int64_t c, const A* scale, const A* shift, bool relu, T* out,
                        uint8_t* index) {
  const A factor = scale ? scale[c] : A(1), term = shift ? shift[c] : A(0);
  A best = load<A>(cells[0].data[c]) * factor + term;
  int chosen = cells[0].number;
  for (int k = 1; k < count; ++k) take(load<A>(cells[k].data[c]) * factor + term, cells[k].number, best, chosen);
  const bool closed = relu && best <= A(0);
  store(out[c], closed ? A(0) : best);
  if (index) index[c] = static_cast<uint8_t>(closed ? frcn::kClosed : chosen);
}

template <class T, class A>
void forward_last(const PoolArgs& a, int64_t begin, int64_t end) {
  const auto* scale = reinterpret_cast<const A*>(a.scale);
  const auto* shift = reinterpret_cast<const A*>(a.shift);
  const int64_t c = a.channels, width = a.pooled_size[2], pixel = a.pooled_pixel;
  Line<const T> lines[frcn::kMaxCells];
  Cell<T> cells[frcn::kMaxCells];
  for (int64_t r = begin; r < end; ++r) {
    const int64_t row = r % a.pooled_size[1], frame = r / a.pooled_size[1] % a.pooled_size[0];
    const int64_t image = r / a.pooled_size[1] / a.pooled_size[0];
    const int count = find_lines(a, reinterpret_cast<const T*>(a.maps) + image * a.step[0], frame, row, lines);
    T* out = reinterpret_cast<T*>(a.pooled) + r * width * pixel;
    uint8_t* index = a.index ? a.index + r * width * pixel : nullptr;
    for (int64_t w = 0; w < width; ++w, out += pixel) {
      const int n = find_cells(a, lines, count, w, c, cells);
      int64_t channel = 0;
      for (; channel + kLanes<A> <= c; channel += kLanes<A>)
        pool_vector<T, A>(cells, n, channel, scale, shift, a.relu, out, index);
      for (; channel < c; ++channel) pool_value<T, A>(cells, n, channel, scale, shift, a.relu, out, index);
      if (index) index += pixel;
    }
  }
}

// ---- forward, contiguous
//
// A row of windows starts as a row of columns: for each column the best of the lines. With the columns sorted by their
// distance modulo the stride, the same column of neighbouring windows lies side by side.

// Columns -padding, -padding + 1, ... of a row, sorted: column q is [q % stride][q / stride].
template <class F>
struct Phases {
  int64_t stride, length;
  std::vector<F> room;

  Phases(const PoolArgs& a)
      : stride(a.stride[2]),
        length(a.pooled_size[2] + ((a.kernel[2] - 1) * a.dilation[2]) / stride + 1 + kVectorBytes),
        room(stride * length) {}
  F* column(int64_t q) { return room.data() + q % stride * length + q / stride; }
};

template <class T, class A>
void best_of_lines(const Line<const T>* lines, int count, int64_t width, A scale, A shift, A* best, Whole<A>* cell) {
  using V = typename Vector<A>::Type;
  using W = typename Vector<Whole<A>>::Type;
  int64_t w = 0;
  for (; w + kLanes<A> <= width; w += kLanes<A>) {
    V value = load_vector<A>(lines[0].data + w) * scale + shift;
    W chosen = all<W>(Whole<A>(lines[0].cell));
    for (int k = 1; k < count; ++k)
      take(V(load_vector<A>(lines[k].data + w) * scale + shift), all<W>(Whole<A>(lines[k].cell)), value, chosen);
    store_vector(best + w, value);
    store_vector(cell + w, chosen);
  }
  for (; w < width; ++w) {
    best[w] = load<A>(lines[0].data[w]) * scale + shift;
    cell[w] = lines[0].cell;
    for (int k = 1; k < count; ++k)
      take(load<A>(lines[k].data[w]) * scale + shift, Whole<A>(lines[k].cell), best[w], cell[w]);
  }
}

inline bool is_identity(const PoolArgs& a) {
  return a.kernel[0] * a.kernel[1] * a.kernel[2] == 1 && a.stride[0] * a.stride[1] * a.stride[2] == 1;
}

template <class T, class A>
void forward_without_windows(const PoolArgs& a, int64_t begin, int64_t end) {
  using V = typename Vector<A>::Type;
  const auto* scales = reinterpret_cast<const A*>(a.scale);
  const auto* shifts = reinterpret_cast<const A*>(a.shift);
  for (int64_t r = begin; r < end; ++r) {
    const int64_t c = r / a.size[1] / a.size[0] % a.channels;
    const A scale = scales ? scales[c] : A(1), shift = shifts ? shifts[c] : A(0);
    const T* x = reinterpret_cast<const T*>(a.maps) + r * a.size[2];
    T* out = reinterpret_cast<T*>(a.pooled) + r * a.size[2];
    int64_t w = 0;
    for (; w + kLanes<A> <= a.size[2]; w += kLanes<A>) {
      const V value = load_vector<A>(x + w) * scale + shift;
      store_vector(out + w, a.relu ? (value <= V{} ? V{} : value) : value);
    }
    for (; w < a.size[2]; ++w) {
      const A value = load<A>(x[w]) * scale + shift;
      store(out[w], a.relu && value <= A(0) ? A(0) : value);
    }
  }
}

template <class T, class A>
void forward_first(const PoolArgs& a, int64_t begin, int64_t end) {
  if (is_identity(a) && !a.index) return forward_without_windows<T, A>(a, begin, end);
  using V = typename Vector<A>::Type;
  using W = typename Vector<Whole<A>>::Type;
  const auto* scales = reinterpret_cast<const A*>(a.scale);
  const auto* shifts = reinterpret_cast<const A*>(a.shift);
  const int64_t width = a.size[2], windows = a.pooled_size[2], stride = a.stride[2];
  Line<const T> lines[frcn::kMaxCells];
  // Columns outside the map are never chosen, not even against -inf.
  Phases<A> value(a);
  Phases<Whole<A>> cell(a);
  std::fill(value.room.begin(), value.room.end(), -std::numeric_limits<A>::infinity());
  std::fill(cell.room.begin(), cell.room.end(), 1 << 20);
  const int64_t columns =
      std::min(width, (windows - 1) * stride + (a.kernel[2] - 1) * a.dilation[2] + 1 - a.padding[2]);
  std::vector<A> best(width);
  std::vector<Whole<A>> chosen(width);
  for (int64_t r = begin; r < end; ++r) {
    const int64_t row = r % a.pooled_size[1], frame = r / a.pooled_size[1] % a.pooled_size[0];
    const int64_t map = r / a.pooled_size[1] / a.pooled_size[0], image = map / a.channels, c = map % a.channels;
    const T* plane = reinterpret_cast<const T*>(a.maps) + image * a.step[0] + c * a.step[1];
    const int count = find_lines(a, plane, frame, row, lines);
    best_of_lines<T, A>(lines, count, columns, scales ? scales[c] : A(1), shifts ? shifts[c] : A(0), best.data(),
                        chosen.data());
    for (int64_t phase = 0; phase < stride; ++phase) {
      // Column w = q - padding, of those q that leave `phase` when divided by the stride.
      const int64_t first = ((phase - a.padding[2]) % stride + stride) % stride;
      A* to = value.column(first + a.padding[2]);
      Whole<A>* to_cell = cell.column(first + a.padding[2]);
      if (stride == 2) {
        for (int64_t k = 0, w = first; w < columns; ++k, w += 2) to[k] = best[w], to_cell[k] = chosen[w];
      } else {
        for (int64_t k = 0, w = first; w < columns; ++k, w += stride) to[k] = best[w], to_cell[k] = chosen[w];
      }
    }
    T* out = reinterpret_cast<T*>(a.pooled) + r * windows;
    uint8_t* index = a.index ? a.index + r * windows : nullptr;
    for (int64_t w = 0; w < windows; w += kLanes<A>) {
      V most = load_vector(value.column(0) + w);
      W number = load_vector(cell.column(0) + w);
      for (int64_t i = 1; i < a.kernel[2]; ++i) {
        const V other = load_vector(value.column(i * a.dilation[2]) + w);
        const W other_number = load_vector(cell.column(i * a.dilation[2]) + w) + Whole<A>(i);
        // Of equal ones the first, of NaN the last, in the order of their numbers.
        const W both_nan = (other != other) & (most != most);
        const W better = (other > most) | ((other != other) & (most == most)) |
                         ((other == most) & (other_number < number)) | (both_nan & (other_number > number));
        most = better ? other : most;
        number = better ? other_number : number;
      }
      if (a.relu) {
        const W closed = most <= V{};
        most = closed ? V{} : most;
        number = closed ? all<W>(Whole<A>(frcn::kClosed)) : number;
      }
      if (w + kLanes<A> <= windows) {
        store_vector(out + w, most);
        if (index) store_bytes<A>(index + w, number);
      } else {
        for (int64_t k = 0; w + k < windows; ++k) {
          store(out[w + k], most[k]);
          if (index) index[w + k] = static_cast<uint8_t>(number[k]);
        }
      }
    }
  }
}

// ---- backward

// What passes a window to its cell `number`.
template <Gate G, class T, class A>
FRCN_HD A passed(A grad, const T* value, const uint8_t* index, int number) {
  if constexpr (G == Gate::index) return *index == number ? grad : A(0);
  if constexpr (G == Gate::value) return load<A>(*value) <= A(0) ? A(0) : grad;
  return grad;
}

template <Gate G, class T, class A>
FRCN_HD typename Vector<A>::Type passed_vector(typename Vector<A>::Type grad, const T* value, const uint8_t* index,
                                               int number) {
  using V = typename Vector<A>::Type;
  if constexpr (G == Gate::index) return load_bytes<A>(index) == Whole<A>(number) ? grad : V{};
  if constexpr (G == Gate::value) return load_vector<A>(value) <= V{} ? V{} : grad;
  return grad;
}

// The windows of a pooled row that cover each column of the maps, and the column's cell in them.
class ColumnCovers {
 public:
  explicit ColumnCovers(const PoolArgs& a) : first(a.size[2] + 1) {
    for (int64_t w = 0; w < a.size[2]; ++w) {
      first[w] = found.size();
      for (int64_t i = a.kernel[2] - 1; i >= 0; --i) {
        const int64_t start = w + a.padding[2] - i * a.dilation[2];
        if (start < 0 || start % a.stride[2] || start / a.stride[2] >= a.pooled_size[2]) continue;
        found.push_back({start / a.stride[2], static_cast<int>(i)});
      }
    }
    first[a.size[2]] = found.size();
  }

  const Cover* begin(int64_t w) const { return found.data() + first[w]; }
  const Cover* end(int64_t w) const { return found.data() + first[w + 1]; }

 private:
  std::vector<Cover> found;
  std::vector<size_t> first;
};

template <class T, class A, Gate G>
void backward_last(const PoolArgs& a, int64_t begin, int64_t end) {
  using V = typename Vector<A>::Type;
  const auto* scale = reinterpret_cast<const A*>(a.scale);
  const auto* center = reinterpret_cast<const A*>(a.center);
  const auto* slope = reinterpret_cast<const A*>(a.slope);
  const auto* offset = reinterpret_cast<const A*>(a.offset);
  const int64_t c = a.channels, width = a.size[2], windows = a.pooled_size[2];
  std::vector<A> ones;
  if (!scale) {
    ones.assign(c, A(1));
    scale = ones.data();
  }
  const ColumnCovers columns(a);
  Cover rows[frcn::kMaxCells], covers[frcn::kMaxCells];  // offsets are of values in the covers
  const auto* grads = reinterpret_cast<const T*>(a.pooled);
  const auto* values = reinterpret_cast<const T*>(a.index);
  for (int64_t r = begin; r < end; ++r) {
    const int64_t row = r % a.size[1], frame = r / a.size[1] % a.size[0], image = r / a.size[1] / a.size[0];
    const int64_t pooled = image * a.pooled_size[0] * a.pooled_size[1];
    T* target = reinterpret_cast<T*>(a.maps) + image * a.step[0] + frame * a.step[2] + row * a.step[3];
    const T* x = reinterpret_cast<const T*>(a.x) + r * width * c;
    const int row_count = find_covers(a, frame, row, rows);
    for (int64_t w = 0; w < width; ++w, target += c, x += c) {
      int count = 0;
      for (int k = 0; k < row_count; ++k)
        for (const Cover* column = columns.begin(w); column != columns.end(w); ++column)
          covers[count++] = {((pooled + rows[k].offset) * windows + column->offset) * c, rows[k].cell + column->cell};
      int64_t j = 0;
      for (; j + kLanes<A> <= c; j += kLanes<A>) {
        V found{};
        if (a.x)
          found = load_vector(slope + j) * (load_vector<A>(x + j) - load_vector(center + j)) + load_vector(offset + j);
        const V factor = load_vector(scale + j);
        for (int k = 0; k < count; ++k) {
          const int64_t at = covers[k].offset + j;
          found +=
              passed_vector<G, T, A>(load_vector<A>(grads + at) * factor, values + at, a.index + at, covers[k].cell);
        }
        store_vector(target + j, found);
      }
      for (; j < c; ++j) {
        A found = a.x ? slope[j] * (load<A>(x[j]) - center[j]) + offset[j] : A(0);
        for (int k = 0; k < count; ++k) {
          const int64_t at = covers[k].offset + j;
          found += passed<G, T, A>(load<A>(grads[at]) * scale[j], values + at, a.index + at, covers[k].cell);
        }
        store(target[j], found);
      }
    }
  }
}

template <class T, class A, Gate G>
void backward_without_windows(const PoolArgs& a, int64_t begin, int64_t end) {
  using V = typename Vector<A>::Type;
  const auto* scales = reinterpret_cast<const A*>(a.scale);
  for (int64_t r = begin; r < end; ++r) {
    const int64_t c = r / a.size[1] / a.size[0] % a.channels, at = r * a.size[2];
    const A scale = scales ? scales[c] : A(1);
    const A center = a.x ? reinterpret_cast<const A*>(a.center)[c] : A(0);
    const A slope = a.x ? reinterpret_cast<const A*>(a.slope)[c] : A(0);
    const A offset = a.x ? reinterpret_cast<const A*>(a.offset)[c] : A(0);
    const T* x = reinterpret_cast<const T*>(a.x) + at;
    const T* grad = reinterpret_cast<const T*>(a.pooled) + at;
    const T* value = reinterpret_cast<const T*>(a.index) + at;
    T* target = reinterpret_cast<T*>(a.maps) + at;
    int64_t w = 0;
    for (; w + kLanes<A> <= a.size[2]; w += kLanes<A>) {
      V found = passed_vector<G, T, A>(load_vector<A>(grad + w) * scale, value + w, nullptr, 0);
      if (a.x) found += slope * (load_vector<A>(x + w) - center) + offset;
      store_vector(target + w, found);
    }
    for (; w < a.size[2]; ++w) {
      const A found = passed<G, T, A>(load<A>(grad[w]) * scale, value + w, nullptr, 0);
      store(target[w], a.x ? found + (slope * (load<A>(x[w]) - center) + offset) : found);
    }
  }
}

template <class T, class A, Gate G>
void backward_first(const PoolArgs& a, int64_t begin, int64_t end) {
  if constexpr (G != Gate::index)
    if (is_identity(a)) return backward_without_windows<T, A, G>(a, begin, end);
  using V = typename Vector<A>::Type;
  const auto* scales = reinterpret_cast<const A*>(a.scale);
  const auto* center = reinterpret_cast<const A*>(a.center);
  const auto* slope = reinterpret_cast<const A*>(a.slope);
  const auto* offset = reinterpret_cast<const A*>(a.offset);
  const int64_t width = a.size[2], windows = a.pooled_size[2], stride = a.stride[2];
  Phases<A> total(a);
  std::vector<A> line(width, A(0));  // columns that no window covers stay zero
  // One row of windows in whole vectors; behind the last, nothing passes.
  std::vector<A> grads(windows + kLanes<A>, A(0));
  std::vector<Whole<A>> cells(windows + kLanes<A>, frcn::kClosed);
  constexpr Gate other = G == Gate::index ? Gate::open : G;
  Cover covers[frcn::kMaxCells];
  for (int64_t r = begin; r < end; ++r) {
    const int64_t row = r % a.size[1], frame = r / a.size[1] % a.size[0], map = r / a.size[1] / a.size[0];
    const int64_t c = map % a.channels;
    const A scale = scales ? scales[c] : A(1);
    std::fill(total.room.begin(), total.room.end(), A(0));
    const int count = find_covers(a, frame, row, covers);
    for (int k = 0; k < count; ++k) {
      const int64_t pooled = (map * a.pooled_size[0] * a.pooled_size[1] + covers[k].offset) * windows;
      const T* grad = reinterpret_cast<const T*>(a.pooled) + pooled;
      const uint8_t* index = a.index + pooled;
      const T* value = reinterpret_cast<const T*>(a.index) + pooled;
      int64_t w = 0;
      for (; w + kLanes<A> <= windows; w += kLanes<A>) {
        const V passing = passed_vector<other, T, A>(load_vector<A>(grad + w) * scale, value + w, nullptr, 0);
        store_vector(grads.data() + w, passing);
        if (G == Gate::index) store_vector(cells.data() + w, load_bytes<A>(index + w));
      }
      for (; w < windows; ++w) {
        grads[w] = passed<other, T, A>(load<A>(grad[w]) * scale, value + w, nullptr, 0);
        if (G == Gate::index) cells[w] = index[w];
      }
      for (int64_t i = 0; i < a.kernel[2]; ++i) {
        const Whole<A> number = covers[k].cell + static_cast<int>(i);
        A* t = total.column(i * a.dilation[2]);
        for (w = 0; w < windows; w += kLanes<A>) {
          V passing = load_vector(grads.data() + w);
          if (G == Gate::index) passing = load_vector(cells.data() + w) == number ? passing : V{};
          store_vector(t + w, load_vector(t + w) + passing);
        }
      }
    }
    for (int64_t phase = 0; phase < stride; ++phase) {
      const int64_t first = ((phase - a.padding[2]) % stride + stride) % stride;
      const A* from = total.column(first + a.padding[2]);
      const int64_t end_of_phase = std::min(width, first + (total.length - (first + a.padding[2]) / stride) * stride);
      if (stride == 2) {
        for (int64_t k = 0, w = first; w < end_of_phase; ++k, w += 2) line[w] = from[k];
      } else {
        for (int64_t k = 0, w = first; w < end_of_phase; ++k, w += stride) line[w] = from[k];
      }
    }
    T* target = reinterpret_cast<T*>(a.maps) + r * width;
    const T* x = reinterpret_cast<const T*>(a.x) + r * width;
    int64_t w = 0;
    for (; w + kLanes<A> <= width; w += kLanes<A>) {
      V found = load_vector(line.data() + w);
      if (a.x) found += slope[c] * (load_vector<A>(x + w) - center[c]) + offset[c];
      store_vector(target + w, found);
    }
    for (; w < width; ++w)
      store(target[w], a.x ? line[w] + (slope[c] * (load<A>(x[w]) - center[c]) + offset[c]) : line[w]);
  }
}

// ---- sums

// Whether a window passes its gradient at all.
template <Gate G, class T, class A>
FRCN_HD A passed_somewhere(A grad, const T* value, const uint8_t* index) {
  if constexpr (G == Gate::index) return *index == frcn::kClosed ? A(0) : grad;
  return passed<G, T, A>(grad, value, index, 0);
}

template <class T, class A, Gate G>
void plain_sums(const PoolArgs& a, int64_t begin, int64_t end, double* totals) {
  using V = typename Vector<A>::Type;
  using W = typename Vector<Whole<A>>::Type;
  const int64_t width = a.pooled_size[2], row = a.last ? width * a.channels : width;
  std::vector<A> room(a.channels + kLanes<A>);
  A* plain = room.data();
  for (int64_t r = begin; r < end; ++r) {
    const T* grad = reinterpret_cast<const T*>(a.pooled) + r * row;
    const uint8_t* index = a.index + r * row;
    const T* value = reinterpret_cast<const T*>(a.index) + r * row;
    const int64_t count = a.last ? a.channels : width, repeats = a.last ? width : 1;
    std::fill(room.begin(), room.end(), A(0));
    V sum{};
    A rest = 0;
    for (int64_t w = 0; w < repeats; ++w, grad += count, index += count, value += count) {
      int64_t j = 0;
      for (; j + kLanes<A> <= count; j += kLanes<A>) {
        V g = load_vector<A>(grad + j);
        if constexpr (G == Gate::index) g = load_bytes<A>(index + j) == W{} + Whole<A>(frcn::kClosed) ? V{} : g;
        if constexpr (G == Gate::value) g = passed_vector<G, T, A>(g, value + j, nullptr, 0);
        if (a.last)
          store_vector(plain + j, load_vector(plain + j) + g);
        else
          sum += g;
      }
      for (; j < count; ++j) {
        const A g = passed_somewhere<G, T, A>(load<A>(grad[j]), value + j, index + j);
        if (a.last)
          plain[j] += g;
        else
          rest += g;
      }
    }
    if (a.last) {
      for (int64_t j = 0; j < a.channels; ++j) totals[j] += plain[j];
    } else {
      for (int k = 0; k < kLanes<A>; ++k) rest += sum[k];
      totals[r / a.pooled_size[1] / a.pooled_size[0] % a.channels] += rest;
    }
  }
}

// Of a window's cells (one, or by the index): the gradient that passes; `found` becomes the value that it
// goes to.
template <class T, class A, Gate G, class V>
FRCN_HD V find_passed(const Cell<T>* cells, int count, int64_t c, V grad, const T* value, const uint8_t* index,
                      V& found) {
  if constexpr (G != Gate::index) {
    found = load_vector<A>(cells[0].data + c);
    return passed_vector<G, T, A>(grad, value + c, index + c, 0);
  } else {
    using W = typename Vector<Whole<A>>::Type;
    const W chosen = load_bytes<A>(index + c);
    W passes{};
    for (int k = 0; k < count; ++k) {
      const W hit = chosen == Whole<A>(cells[k].number);
      found = hit ? load_vector<A>(cells[k].data + c) : found;
      passes |= hit;
    }
    return passes ? grad : V{};
  }
}

template <class T, class A, Gate G>
void sums_last(const PoolArgs& a, int64_t begin, int64_t end, double* totals) {
  using V = typename Vector<A>::Type;
  const auto* center = reinterpret_cast<const A*>(a.center);
  const int64_t c = a.channels, width = a.pooled_size[2];
  Line<const T> lines[frcn::kMaxCells];
  Cell<T> cells[frcn::kMaxCells];
  std::vector<A> room(2 * c);
  A *plain = room.data(), *weighted = plain + c;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t row = r % a.pooled_size[1], frame = r / a.pooled_size[1] % a.pooled_size[0];
    const int64_t image = r / a.pooled_size[1] / a.pooled_size[0];
    const int count = find_lines(a, reinterpret_cast<const T*>(a.x) + image * a.step[0], frame, row, lines);
    const T* grad = reinterpret_cast<const T*>(a.pooled) + r * width * c;
    const uint8_t* index = a.index + r * width * c;
    const T* value = reinterpret_cast<const T*>(a.index) + r * width * c;
    std::fill(room.begin(), room.end(), A(0));
    for (int64_t w = 0; w < width; ++w, grad += c, index += c, value += c) {
      const int n = find_cells(a, lines, count, w, c, cells);
      int64_t j = 0;
      for (; j + kLanes<A> <= c; j += kLanes<A>) {
        const V middle = load_vector(center + j);
        V x = middle;
        const V g = find_passed<T, A, G>(cells, n, j, V(load_vector<A>(grad + j)), value, index, x);
        store_vector(plain + j, load_vector(plain + j) + g);
        // Not even an infinite x counts where nothing passes.
        store_vector(weighted + j, load_vector(weighted + j) + (g == V{} ? V{} : g * (x - middle)));
      }
      for (; j < c; ++j)
        for (int k = 0; k < n; ++k) {
          const A g = passed<G, T, A>(load<A>(grad[j]), value + j, index + j, cells[k].number);
          plain[j] += g;
          weighted[j] += g == A(0) ? A(0) : g * (load<A>(cells[k].data[j]) - center[j]);
        }
    }
    for (int64_t j = 0; j < 2 * c; ++j) totals[j] += room[j];
  }
}

template <class T, class A, Gate G>
void sums_first(const PoolArgs& a, int64_t begin, int64_t end, double* totals) {
  using V = typename Vector<A>::Type;
  const auto* centers = reinterpret_cast<const A*>(a.center);
  const int64_t width = a.pooled_size[2];
  int64_t offsets[frcn::kMaxCells + 1];  // of a cell from its window's start
  for (int64_t i = 0, n = 0; i < a.kernel[0]; ++i)
    for (int64_t j = 0; j < a.kernel[1]; ++j)
      for (int64_t k = 0; k < a.kernel[2]; ++k)
        offsets[n++] = i * a.dilation[0] * a.step[2] + j * a.dilation[1] * a.step[3] + k * a.dilation[2];
  for (int64_t r = begin; r < end; ++r) {
    const int64_t row = r % a.pooled_size[1], frame = r / a.pooled_size[1] % a.pooled_size[0];
    const int64_t map = r / a.pooled_size[1] / a.pooled_size[0], c = map % a.channels;
    const T* plane = reinterpret_cast<const T*>(a.x) + map / a.channels * a.step[0] + c * a.step[1];
    const int64_t line =
        (frame * a.stride[0] - a.padding[0]) * a.step[2] + (row * a.stride[1] - a.padding[1]) * a.step[3];
    const T* grad = reinterpret_cast<const T*>(a.pooled) + r * width;
    const uint8_t* index = a.index + r * width;
    const T* value = reinterpret_cast<const T*>(a.index) + r * width;
    A plain = 0, weighted = 0;
    int64_t w = 0;
    if (G != Gate::index && a.stride[2] == 1 && a.padding[2] == 0) {
      V plains{}, products{};
      for (; w + kLanes<A> <= width; w += kLanes<A>) {
        const V g = passed_vector<G, T, A>(load_vector<A>(grad + w), value + w, nullptr, 0);
        const V product = g * (load_vector<A>(plane + line + w) - centers[c]);
        plains += g;
        products += g == V{} ? V{} : product;
      }
      for (int k = 0; k < kLanes<A>; ++k) plain += plains[k], weighted += products[k];
    }
    for (; w < width; ++w) {
      const int number = G == Gate::index ? index[w] : 0;
      const A g = passed<G, T, A>(load<A>(grad[w]), value + w, index + w, number);
      if (number == frcn::kClosed || g == A(0)) continue;
      plain += g;
      weighted += g * (load<A>(plane[line + w * a.stride[2] - a.padding[2] + offsets[number]]) - centers[c]);
    }
    totals[c] += plain;
    totals[a.channels + c] += weighted;
  }
}

// The first value of a channel, near which most others are.
template <class T>
const T* first_value(const PoolArgs& a, int64_t c) {
  return reinterpret_cast<const T*>(a.x) + (a.last ? c : c * a.size[0] * a.size[1] * a.size[2]);
}

// Sums of a segment's distances to the channel's origin, and of their squares, from those to its own first value: few
// digits cancel, in A or in double. (sum, sum of squares) is added to totals.
template <class A>
FRCN_HD void add_moments(double count, A center, A origin, A plain, A squares, double* sum, double* square) {
  const double m = double(center) - double(origin);
  *sum += count * m + plain;
  *square += squares + 2 * m * plain + count * m * m;
}

template <class T, class A>
void statistics_last(const PoolArgs& a, int64_t begin, int64_t end, double* totals) {
  using V = typename Vector<A>::Type;
  const int64_t c = a.channels;
  std::vector<A> room(3 * c);
  A *plain = room.data(), *squares = plain + c, *center = squares + c;
  const T* origin = first_value<T>(a, 0);
  for (int64_t r = begin; r < end; ++r) {
    const T* x = reinterpret_cast<const T*>(a.x) + r * a.size[2] * c;
    std::fill(plain, center, A(0));
    for (int64_t j = 0; j < c; ++j) center[j] = load<A>(x[j]);
    for (int64_t w = 0; w < a.size[2]; ++w, x += c) {
      int64_t j = 0;
      for (; j + kLanes<A> <= c; j += kLanes<A>) {
        const V v = load_vector<A>(x + j) - load_vector(center + j);
        store_vector(plain + j, load_vector(plain + j) + v);
        store_vector(squares + j, load_vector(squares + j) + v * v);
      }
      for (; j < c; ++j) {
        const A v = load<A>(x[j]) - center[j];
        plain[j] += v;
        squares[j] += v * v;
      }
    }
    for (int64_t j = 0; j < c; ++j)
      add_moments<A>(a.size[2], center[j], load<A>(origin[j]), plain[j], squares[j], totals + j, totals + c + j);
  }
}

template <class T, class A>
void statistics_first(const PoolArgs& a, int64_t begin, int64_t end, double* totals) {
  using V = typename Vector<A>::Type;
  constexpr int64_t kSegment = 128;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t c = r / a.size[1] / a.size[0] % a.channels;
    const A origin = load<A>(*first_value<T>(a, c));
    for (int64_t first = 0; first < a.size[2]; first += kSegment) {
      const T* x = reinterpret_cast<const T*>(a.x) + r * a.size[2] + first;
      const int64_t count = std::min(kSegment, a.size[2] - first);
      const A center = load<A>(x[0]);
      V sums{}, products{};
      int64_t w = 0;
      for (; w + kLanes<A> <= count; w += kLanes<A>) {
        const V v = load_vector<A>(x + w) - center;
        sums += v;
        products += v * v;
      }
      A plain = 0, squares = 0;
      for (int k = 0; k < kLanes<A>; ++k) plain += sums[k], squares += products[k];
      for (; w < count; ++w) {
        const A v = load<A>(x[w]) - center;
        plain += v;
        squares += v * v;
      }
      add_moments<A>(count, center, origin, plain, squares, totals + c, totals + a.channels + c);
    }
  }
}

template <class T, class A>
void origins(const PoolArgs& a, int64_t begin, int64_t end, double* found) {
  for (int64_t c = begin; c < end; ++c) found[c] += load<A>(*first_value<T>(a, c));
}

// ---- by layout and gate

template <class T, class A>
void forward(const PoolArgs& a, int64_t begin, int64_t end) {
  (a.last ? forward_last<T, A> : forward_first<T, A>)(a, begin, end);
}

template <class T, class A>
void backward(const PoolArgs& a, int64_t begin, int64_t end) {
  const auto run =
      a.gate == Gate::index   ? (a.last ? backward_last<T, A, Gate::index> : backward_first<T, A, Gate::index>)
      : a.gate == Gate::value ? (a.last ? backward_last<T, A, Gate::value> : backward_first<T, A, Gate::value>)
                              : (a.last ? backward_last<T, A, Gate::open> : backward_first<T, A, Gate::open>);
  run(a, begin, end);
}

template <class T, class A, Gate G>
void sums_by_layout(const PoolArgs& a, int64_t begin, int64_t end, double* totals) {
  (!a.x ? plain_sums<T, A, G> : a.last ? sums_last<T, A, G> : sums_first<T, A, G>)(a, begin, end, totals);
}

template <class T, class A>
void sums(const PoolArgs& a, int64_t begin, int64_t end, double* totals) {
  const auto run = a.gate == Gate::index   ? sums_by_layout<T, A, Gate::index>
                   : a.gate == Gate::value ? sums_by_layout<T, A, Gate::value>
                                           : sums_by_layout<T, A, Gate::open>;
  run(a, begin, end, totals);
}

template <class T, class A>
void statistics(const PoolArgs& a, int64_t begin, int64_t end, double* totals) {
  (a.last ? statistics_last<T, A> : statistics_first<T, A>)(a, begin, end, totals);
}

template <class T, class A>
constexpr frcn::PoolFunctions functions() {
  return {forward<T, A>, backward<T, A>, sums<T, A>, statistics<T, A>, origins<T, A>};
}

}  // namespace

extern const frcn::PoolTable pool_table;
const frcn::PoolTable pool_table = {
    {functions<float, float>(), functions<double, double>(), functions<bfloat16, float>()}};

}  // namespace FRCN_ISA
