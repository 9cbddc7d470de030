// Layer normalisation, compiled once per instruction set (FRCN_ISA: base, avx2, avx512, avx512_bf16).
#include <algorithm>
#include <cmath>

#include "conv_recurrent/normalize.h"

namespace FRCN_ISA {
namespace {

using frcn::ImageSums;
using frcn::NormalizeArgs;
using frcn::NormalizeRange;

constexpr int64_t kBlockValues = 4096;  // read twice by forward's sums: they stay in the first-level cache

// Calls body(image, begin, end) for the pixels of a range, image by image and in blocks of at most `most` pixels.
template <class Body>
void each_block(const NormalizeArgs& a, const NormalizeRange& r, int64_t most, Body body) {
  for (int64_t p = r.begin; p < r.end;) {
    const int64_t image = p / a.pixels_per_image;
    const int64_t end = std::min({r.end, p + most, (image + 1) * a.pixels_per_image});
    body(image, p, end);
    p = end;
  }
}

// Calls body(offset, count) for every run of values of the pixels [begin, end).
template <class Body>
void each_run(const NormalizeArgs& a, const NormalizeRange& r, int64_t begin, int64_t end, Body body) {
  if (r.last - r.first == a.channels) {
    body(begin * a.channels, (end - begin) * a.channels);
    return;
  }
  for (int64_t p = begin; p < end; ++p)
    for (int64_t at = 0; at < a.channels; at += r.slot) body(p * a.channels + at + r.first, r.last - r.first);
}

template <class F>
double sum_of(const F* values, int64_t count) {
  F sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += values[i];
  return sum;
}

template <class F>
double squares_of(const F* values, int64_t count, F mean) {
  F sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += (values[i] - mean) * (values[i] - mean);
  return sum;
}

template <class F>
double product_of(const F* values, const F* others, int64_t count) {
  F sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += values[i] * others[i];
  return sum;
}

// Mean and squared distances of two sets of values together.
void join(ImageSums& into, const ImageSums& more) {
  if (more.count == 0) return;
  const double count = into.count + more.count, apart = more.first - into.first;
  into.second += more.second + apart * apart * into.count * more.count / count;
  into.first += apart * more.count / count;
  into.count = count;
}

int64_t block_pixels(const NormalizeArgs& a) { return std::max<int64_t>(1, kBlockValues / a.channels); }

template <class F>
void sums(const NormalizeArgs& a, const NormalizeRange& r, int part) {
  const F* maps = reinterpret_cast<const F*>(a.maps);
  each_block(a, r, block_pixels(a), [&](int64_t image, int64_t begin, int64_t end) {
    ImageSums block;
    each_run(a, r, begin, end, [&](int64_t at, int64_t count) {
      block.first += sum_of(maps + at, count);
      block.count += count;
    });
    block.first /= block.count;
    each_run(a, r, begin, end, [&](int64_t at, int64_t count) {
      block.second += squares_of(maps + at, count, static_cast<F>(block.first));
    });
    join(a.sums[part * a.images + image], block);
  });
}

template <class F>
void apply(const NormalizeArgs& a, const NormalizeRange& r) {
  F* maps = reinterpret_cast<F*>(a.maps);
  each_block(a, r, a.pixels_per_image, [&](int64_t image, int64_t begin, int64_t end) {
    ImageSums all;
    for (int part = 0; part < a.parts; ++part) join(all, a.sums[part * a.images + image]);
    const F mean = static_cast<F>(all.first), scale = static_cast<F>(1 / std::sqrt(all.second / all.count + a.eps));
    if (begin == image * a.pixels_per_image && r.first == 0) reinterpret_cast<F*>(a.scale)[image] = scale;
    each_run(a, r, begin, end, [&](int64_t at, int64_t count) {
#pragma omp simd
      for (int64_t i = at; i < at + count; ++i) maps[i] = (maps[i] - mean) * scale;
    });
  });
}

template <class F>
void sums_backward(const NormalizeArgs& a, const NormalizeRange& r, int part) {
  const F *grad = reinterpret_cast<const F*>(a.maps), *normalized = reinterpret_cast<const F*>(a.normalized);
  each_block(a, r, block_pixels(a), [&](int64_t image, int64_t begin, int64_t end) {
    ImageSums& found = a.sums[part * a.images + image];
    each_run(a, r, begin, end, [&](int64_t at, int64_t count) {
      found.first += sum_of(grad + at, count);
      found.second += product_of(grad + at, normalized + at, count);
    });
  });
}

template <class F>
void apply_backward(const NormalizeArgs& a, const NormalizeRange& r) {
  F* grad = reinterpret_cast<F*>(a.maps);
  const F* normalized = reinterpret_cast<const F*>(a.normalized);
  const double values = static_cast<double>(a.pixels_per_image * a.channels);
  each_block(a, r, a.pixels_per_image, [&](int64_t image, int64_t begin, int64_t end) {
    ImageSums all;
    for (int part = 0; part < a.parts; ++part) {
      all.first += a.sums[part * a.images + image].first;
      all.second += a.sums[part * a.images + image].second;
    }
    const F mean = static_cast<F>(all.first / values), along = static_cast<F>(all.second / values);
    const F scale = reinterpret_cast<const F*>(a.scale)[image];
    each_run(a, r, begin, end, [&](int64_t at, int64_t count) {
#pragma omp simd
      for (int64_t i = at; i < at + count; ++i) grad[i] = scale * (grad[i] - mean - along * normalized[i]);
    });
  });
}

}  // namespace

extern const frcn::NormalizeTable normalize_table;
const frcn::NormalizeTable normalize_table = {{sums<float>, sums<double>},
                                              {sums_backward<float>, sums_backward<double>},
                                              {apply<float>, apply<double>},
                                              {apply_backward<float>, apply_backward<double>}};

}  // namespace FRCN_ISA
