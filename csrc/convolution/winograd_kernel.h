// The kernels of Winograd's convolution; included once per instruction set.
//
// A chunk's transformed maps lie by points and blocks of channels, tile after tile. At each point a block of up to 12
// (AVX2: 6) tiles by two vectors of outputs stays in registers over all inputs and the kernel's frames; in the weight
// gradient, 8 (4) inputs by two vectors of outputs over the tiles of a piece. The weights of a block of outputs are
// transformed by the thread that multiplies them.
#pragma once

#include <algorithm>
#include <cstring>

#include "common/vector.h"
#include "convolution/winograd.h"
#include "convolution/winograd_transform.h"

namespace FRCN_ISA {

using Floats = Vector<float>::Type;
constexpr int kFloats = kLanes<float>;
constexpr int kWinogradTiles = kVectorBytes == 64 ? 12 : 6;
constexpr int kWinogradInputs = kVectorBytes == 64 ? 8 : 4;

// For one block of outputs, so that its points stay in cache; for a group as many fewer.
template <int Taps>
constexpr int64_t kPieceTiles = Taps == 3 ? 144 : 64;

// Where rows of tiles and their points are, of the source or of the result's gradient.
struct TransformedMaps {
  const frcn::WinogradChunk& chunk;
  float* values;
  int64_t frames, vectors, point_step;  // vectors: of a tile and a point, for all channels

  TransformedMaps(const frcn::WinogradChunk& c, float* v, int64_t f, int64_t n)
      : chunk(c), values(v), frames(f), vectors(n) {
    point_step = frcn::winograd_point_step(vectors * c.images * frames * c.plane(), kFloats);
  }
  int64_t tiles() const { return chunk.images * frames * chunk.plane(); }
  // The first tile of an image in a block of `together` vectors of channels.
  float* at(int64_t block, int64_t image, int64_t together) const {
    return values + (block * tiles() + image * frames * chunk.plane()) * together * kFloats;
  }
};

inline TransformedMaps source_maps(const frcn::WinogradArgs& a, const frcn::WinogradChunk& c) {
  return {c, c.source, a.source_size[0], (a.inputs + kFloats - 1) / kFloats};
}

inline TransformedMaps grad_maps(const frcn::WinogradArgs& a, const frcn::WinogradChunk& c) {
  return {c, c.grad, a.size[0], (a.outputs + 2 * kFloats - 1) / (2 * kFloats) * 2};
}

// Rows of tiles [begin, end), the first tile's pixels at -padding, to points. A block of channels has `Together`
// vectors.
template <class Matrix, int Together>
void transform_maps(const TransformedMaps& maps, const float* pixels, int64_t channels, const int64_t (&size)[3],
                    const int64_t (&padding)[2], int64_t begin, int64_t end) {
  constexpr int Side = Matrix::kColumns, Axis = Matrix::kRows;
  const frcn::WinogradChunk& c = maps.chunk;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t row = unit % c.rows, frame = unit / c.rows % maps.frames, image = unit / c.rows / maps.frames;
    const int64_t top = 2 * (c.first_row + row) - padding[0];
    const float* plane = pixels + ((c.first_image + image) * maps.frames + frame) * size[1] * size[2] * channels;
    for (int64_t vector = 0; vector < maps.vectors; ++vector) {
      const int64_t first = vector * kFloats, count = channels - first;
      float* to = maps.at(vector / Together, image, Together) +
                  ((frame * c.rows + row) * c.columns * Together + vector % Together) * kFloats;
      for (int64_t column = 0; column < c.columns; ++column, to += Together * kFloats) {
        const int64_t left = 2 * column - padding[1];
        Floats values[Side][Side], points[Axis][Axis];
        const bool inside = top >= 0 && top + Side <= size[1] && left >= 0 && left + Side <= size[2];
        const float* from = plane + (top * size[2] + left) * channels + first;
        if (inside && count >= kFloats) {
#pragma GCC unroll 6
          for (int i = 0; i < Side; ++i)
#pragma GCC unroll 6
            for (int j = 0; j < Side; ++j) values[i][j] = load_vector(from + (i * size[2] + j) * channels);
        } else {
          for (int i = 0; i < Side; ++i)
            for (int j = 0; j < Side; ++j) {
              const int64_t y = top + i, x = left + j;
              values[i][j] = y >= 0 && y < size[1] && x >= 0 && x < size[2]
                                 ? load_some(from + (i * size[2] + j) * channels, count)
                                 : Floats{};
            }
        }
        transform<Matrix>(values, points);
        for (int k = 0; k < Axis * Axis; ++k) store_vector(to + k * maps.point_step, points[k / Axis][k % Axis]);
      }
    }
  }
}

template <int Taps>
void transform_source(const frcn::WinogradArgs& a, const frcn::WinogradChunk& c, int64_t begin, int64_t end, float*) {
  transform_maps<AsItIs<SourceMatrix<Taps>>, 1>(source_maps(a, c), a.source, a.inputs, a.source_size,
                                                {a.padding[1], a.padding[2]}, begin, end);
}

template <int Taps>
void transform_grad(const frcn::WinogradArgs& a, const frcn::WinogradChunk& c, int64_t begin, int64_t end, float*) {
  transform_maps<Transposed<ResultMatrix<Taps>>, 2>(grad_maps(a, c), a.grad, a.outputs, a.size, {0, 0}, begin, end);
}

// From one point of a block's weights to the next; (frames, inputs, outputs of the block) each.
inline int64_t weight_point_step(const frcn::WinogradArgs& a) {
  return frcn::winograd_point_step(2 * a.kernel_frames * a.inputs, kFloats);
}

// The weights of one block of outputs, to their points.
template <int Taps>
void transform_block(const frcn::WinogradArgs& a, int64_t block, float* to) {
  constexpr int width = 2 * kFloats, axis = Taps + 1;
  const int64_t first = block * width, count = std::min<int64_t>(width, a.outputs - first);
  const int64_t step = weight_point_step(a);
  const int64_t* s = a.weight_step;
  alignas(kVectorBytes) float taps[Taps][Taps][width] = {};
  for (int64_t c = 0; c < a.inputs; ++c) {
    for (int64_t frame = 0; frame < a.kernel_frames; ++frame) {
      const float* from = a.weight + first * s[0] + c * s[1] + frame * s[2];
      for (int64_t n = 0; n < count; ++n, from += s[0])
        for (int i = 0; i < Taps; ++i)
          for (int j = 0; j < Taps; ++j) taps[i][j][n] = from[i * s[3] + j * s[4]];
      for (int half = 0; half < width; half += kFloats) {
        Floats values[Taps][Taps], points[axis][axis];
        for (int i = 0; i < Taps; ++i)
          for (int j = 0; j < Taps; ++j) values[i][j] = load_vector(taps[i][j] + half);
        transform<AsItIs<WeightMatrix<Taps>>>(values, points);
        float* target = to + (frame * a.inputs + c) * width + half;
        for (int k = 0; k < axis * axis; ++k) store_vector(target + k * step, points[k / axis][k % axis]);
      }
    }
  }
}

template <int Taps>
void transform_weight(const frcn::WinogradArgs& a, int64_t begin, int64_t end, float* points) {
  const int64_t step = frcn::winograd_block_values(a, Taps, kFloats);
  for (int64_t block = begin; block < end; ++block) transform_block<Taps>(a, block, points + block * step);
}

// Where the sums of a point meet what they are made of.
struct WinogradProduct {
  int64_t frames, inputs, tap_step, block_step;  // of the source: from one frame, one block of inputs to the next
};

template <int Tiles, int Vectors>
void multiply_tiles(const WinogradProduct& p, const float* source, const float* weight, float* to) {
  Floats sum[Tiles][Vectors] = {};
  for (int64_t frame = 0; frame < p.frames; ++frame) {
    for (int64_t first = 0; first < p.inputs; first += kFloats) {
      const float* x = source + frame * p.tap_step + first / kFloats * p.block_step;
      const int64_t count = std::min<int64_t>(kFloats, p.inputs - first);
      for (int64_t c = 0; c < count; ++c, ++x, weight += 2 * kFloats) {
        Floats column[Vectors];
        for (int n = 0; n < Vectors; ++n) column[n] = load_vector(weight + n * kFloats);
#pragma GCC unroll 12
        for (int m = 0; m < Tiles; ++m)
          for (int n = 0; n < Vectors; ++n) sum[m][n] += x[m * kFloats] * column[n];
      }
    }
  }
  for (int m = 0; m < Tiles; ++m)
    for (int n = 0; n < Vectors; ++n) store_vector(to + (m * 2 + n) * kFloats, sum[m][n]);
}

template <int Vectors, int Tiles = kWinogradTiles>
void multiply(int64_t tiles, const WinogradProduct& p, const float* source, const float* weight, float* to) {
  if (tiles == Tiles) return multiply_tiles<Tiles, Vectors>(p, source, weight, to);
  if constexpr (Tiles > 1) multiply<Vectors, Tiles - 1>(tiles, p, source, weight, to);
}

// One point of a piece's tiles for one block of outputs, to (tiles, outputs of the block).
inline void multiply_piece(const frcn::WinogradArgs& a, const TransformedMaps& source, const frcn::WinogradPiece& piece,
                           int64_t point, int64_t block, const float* weight, float* to) {
  const int64_t tiles = piece.end - piece.begin, parts = (tiles + kWinogradTiles - 1) / kWinogradTiles;
  const int64_t plane = source.chunk.plane();
  const WinogradProduct p{piece.last_tap - piece.first_tap, a.inputs, plane * kFloats, source.tiles() * kFloats};
  const float* first = source.at(0, piece.image, 1) + point * source.point_step +
                       (piece.begin + (piece.first_tap - a.padding[0]) * plane) * kFloats;
  const auto add = a.outputs - block * 2 * kFloats > kFloats ? multiply<2> : multiply<1>;
  for (int64_t k = 0; k < parts; ++k) {
    const int64_t begin = tiles * k / parts, end = tiles * (k + 1) / parts;
    add(end - begin, p, first + begin * kFloats, weight + piece.first_tap * a.inputs * 2 * kFloats,
        to + begin * 2 * kFloats);
  }
}

// Takes a piece's points to pixels of the target.
template <int Taps>
void write_results(const frcn::WinogradArgs& a, const frcn::WinogradChunk& c, const frcn::WinogradPiece& piece,
                   int64_t block, const float* from, int64_t from_step) {
  constexpr int axis = Taps + 1;
  for (int64_t tile = piece.begin; tile < piece.end; ++tile, from += 2 * kFloats) {
    const int64_t frame = tile / c.plane(), row = tile % c.plane() / c.columns, column = tile % c.columns;
    const int64_t y = 2 * (c.first_row + row), x = 2 * column;
    const int64_t image_row = ((c.first_image + piece.image) * a.size[0] + frame) * a.size[1] + y;
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t output = (2 * block + half) * kFloats, count = a.outputs - output;
      if (count <= 0) break;
      const Floats bias = a.bias ? load_some(a.bias + output, count) : Floats{};
      Floats points[axis][axis], values[2][2];
      for (int k = 0; k < axis * axis; ++k)
        points[k / axis][k % axis] = load_vector(from + k * from_step + half * kFloats);
      transform<AsItIs<ResultMatrix<Taps>>>(points, values);
      for (int i = 0; i < 2 && y + i < a.size[1]; ++i) {
        for (int j = 0; j < 2 && x + j < a.size[2]; ++j) {
          float* to = a.target + ((image_row + i) * a.size[2] + x + j) * a.outputs + output;
          const Floats before = a.add ? load_some(to, count) : bias;
          store_some(to, before + values[i][j], count);
        }
      }
    }
  }
}

// Which piece of which group a unit begins with: a thread's share is in vectors of outputs, as groups differ in them.
inline int64_t item_of(int64_t unit, int64_t group_vectors, int64_t vectors, int64_t pieces) {
  const int64_t group = unit / (group_vectors * pieces), first = group * group_vectors;
  const int64_t own = std::max<int64_t>(1, std::min(group_vectors, vectors - first));
  return group * pieces + (unit - first * pieces + own - 1) / own;
}

template <int Taps>
void convolve_winograd(const frcn::WinogradArgs& a, const frcn::WinogradChunk& c, int64_t begin_unit, int64_t end_unit,
                       float* room) {
  const TransformedMaps source = source_maps(a, c);
  const int64_t pieces = static_cast<int64_t>(c.pieces.size()), vectors = (a.outputs + kFloats - 1) / kFloats;
  const int64_t blocks = (vectors + 1) / 2;
  const int64_t begin = item_of(begin_unit, 2 * c.group, vectors, pieces);
  const int64_t end = item_of(end_unit, 2 * c.group, vectors, pieces);
  constexpr int points = (Taps + 1) * (Taps + 1);
  const int64_t step = frcn::winograd_point_step(2 * (kPieceTiles<Taps> / c.group), kFloats);
  const int64_t block_step = frcn::winograd_block_values(a, Taps, kFloats);
  float* own = room + c.group * points * step;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first = item / pieces * c.group, last = std::min(blocks, first + c.group);
    if (!a.points && (item == begin || item % pieces == 0))
      for (int64_t block = first; block < last; ++block)
        transform_block<Taps>(a, block, own + (block - first) * block_step);
    const float* weight = a.points ? a.points + first * block_step : own;
    const auto& piece = c.pieces[item % pieces];
    for (int k = 0; k < points; ++k)
      for (int64_t block = first; block < last; ++block)
        multiply_piece(a, source, piece, k, block, weight + (block - first) * block_step + k * weight_point_step(a),
                       room + ((block - first) * points + k) * step);
    for (int64_t block = first; block < last; ++block)
      write_results<Taps>(a, c, piece, block, room + (block - first) * points * step, step);
  }
}

// The tiles whose sums stay in registers: those of some pieces at one point, for one block of outputs.
struct WinogradBatch {
  const frcn::WinogradPiece *first, *last;
  int64_t tap, source_image, grad_image, shift;  // values from one image to the next; from a tile to its source
};

// sum (inputs, outputs of a block) += the products over the batch's tiles.
inline void add_tiles(const WinogradBatch& batch, const float* source, const float* grad, float* sums) {
  Floats sum[kWinogradInputs][2];
  for (int m = 0; m < kWinogradInputs; ++m)
    for (int n = 0; n < 2; ++n) sum[m][n] = load_vector(sums + (m * 2 + n) * kFloats);
  for (const auto* p = batch.first; p < batch.last; ++p) {
    if (batch.tap < p->first_tap || batch.tap >= p->last_tap) continue;
    const float* x = source + p->image * batch.source_image + p->begin * kFloats + batch.shift;
    const float* g = grad + p->image * batch.grad_image + p->begin * 2 * kFloats;
    for (int64_t t = p->begin; t < p->end; ++t, x += kFloats, g += 2 * kFloats) {
      const Floats first = load_vector(g), second = load_vector(g + kFloats);
#pragma GCC unroll 8
      for (int m = 0; m < kWinogradInputs; ++m) {
        sum[m][0] += x[m] * first;
        sum[m][1] += x[m] * second;
      }
    }
  }
  for (int m = 0; m < kWinogradInputs; ++m)
    for (int n = 0; n < 2; ++n) store_vector(sums + (m * 2 + n) * kFloats, sum[m][n]);
}

// Blocks of inputs [first, last) by one block of outputs.
template <int Taps>
void add_weight_gradient_of(const frcn::WinogradArgs& a, const frcn::WinogradChunk& c, int64_t block, int64_t first,
                            int64_t last, float* room) {
  constexpr int width = 2 * kFloats, axis = Taps + 1;
  const TransformedMaps source = source_maps(a, c), grad = grad_maps(a, c);
  const int64_t inputs = (last - first) * kFloats, tap_step = inputs * width;
  const int64_t step = frcn::winograd_point_step(2 * a.kernel_frames * inputs, kFloats), plane = c.plane();
  std::fill(room, room + axis * axis * step, 0.0f);
  for (int k = 0; k < axis * axis; ++k) {
    const auto* const pieces_end = c.pieces.data() + c.pieces.size();
    for (const auto *piece = c.pieces.data(), *next = piece; piece < pieces_end; piece = next) {
      int64_t tiles = 0;
      while (next < pieces_end && (next == piece || tiles + next->end - next->begin <= kPieceTiles<Taps>))
        tiles += next->end - next->begin, ++next;
      const float* g = grad.at(block, 0, 2) + k * grad.point_step;
      for (int64_t b = first; b < last; ++b) {
        for (int64_t tap = 0; tap < a.kernel_frames; ++tap) {
          const WinogradBatch batch{piece,
                                    next,
                                    tap,
                                    source.frames * plane * kFloats,
                                    grad.frames * plane * width,
                                    (tap - a.padding[0]) * plane * kFloats};
          const float* x = source.at(b, 0, 1) + k * source.point_step;
          float* sums = room + k * step + tap * tap_step + (b - first) * kFloats * width;
          for (int m = 0; m < kFloats; m += kWinogradInputs) add_tiles(batch, x + m, g, sums + m * width);
        }
      }
    }
  }
  for (int64_t tap = 0; tap < a.kernel_frames; ++tap) {
    for (int64_t m = 0; m < inputs && first * kFloats + m < a.inputs; ++m) {
      for (int half = 0; half < 2; ++half) {
        const int64_t output = (2 * block + half) * kFloats, count = a.outputs - output;
        if (count <= 0) break;
        Floats points[axis][axis], values[Taps][Taps];
        const float* from = room + tap * tap_step + m * width + half * kFloats;
        for (int k = 0; k < axis * axis; ++k) points[k / axis][k % axis] = load_vector(from + k * step);
        transform<Transposed<WeightMatrix<Taps>>>(points, values);
        for (int i = 0; i < Taps * Taps; ++i) {
          float* to = a.total + ((tap * Taps * Taps + i) * a.inputs + first * kFloats + m) * a.outputs + output;
          store_some(to, load_some(to, count) + values[i / Taps][i % Taps], count);
        }
      }
    }
  }
}

template <int Taps>
void weight_gradient_winograd(const frcn::WinogradArgs& a, const frcn::WinogradChunk& c, int64_t begin, int64_t end,
                              float* room) {
  const int64_t blocks = (a.inputs + kFloats - 1) / kFloats;
  for (int64_t item = begin; item < end;) {
    const int64_t block = item / blocks, next = std::min(end, (block + 1) * blocks);
    add_weight_gradient_of<Taps>(a, c, block, item % blocks, item % blocks + next - item, room);
    item = next;
  }
}

constexpr frcn::WinogradTable kWinograd3 = {transform_weight<3>,
                                            transform_source<3>,
                                            transform_grad<3>,
                                            convolve_winograd<3>,
                                            weight_gradient_winograd<3>,
                                            3,
                                            kFloats,
                                            kPieceTiles<3>};
// Of 5 taps the weight's gradient would have ten times a direct sum's rounding errors.
constexpr frcn::WinogradTable kWinograd5 = {
    transform_weight<5>, transform_source<5>, nullptr, convolve_winograd<5>, nullptr, 5, kFloats, kPieceTiles<5>};

}  // namespace FRCN_ISA
