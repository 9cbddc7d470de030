// Layer normalisation of whole images as a block of GPU threads sees it: sums over the values, then the change. A block
// has a slice of an image. It finds the sums of its slice itself where that is the whole image; else a first kernel
// writes those of every slice, and each block of the second joins all of its image. Everything is always in the same
// order: every run gives the same bits.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/float16.h"
#include "common/pack.h"

namespace FRCN_ISA {

constexpr int kNormalizeThreads = 256;

// See NormalizeLaunch.
struct DeviceNormalize {
  char* target;
  const char* source;
  char* scale;
  char* sums;
  int64_t values;
  int64_t packs, slice_packs;  // of an image, of a slice
  int slices;
  double eps;
};

FRCN_HD float quotient(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdividef(a, b);
#else
  return a / b;
#endif
}
FRCN_HD double quotient(double a, double b) { return a / b; }

FRCN_HD float inverse_root(float x) {
#if defined(__CUDA_ARCH__)
  return rsqrtf(x);
#else
  return 1.0f / std::sqrt(x);
#endif
}
FRCN_HD double inverse_root(double x) { return 1.0 / sqrt(x); }

// Of values: how many, their mean, and the sum of squares of their distances from it.
template <class A>
struct Moments {
  A count, mean, squares;

  // Chan, Golub and LeVeque 1979: nothing cancels, however far from zero the values are.
  FRCN_HD void join(const Moments& more) {
    if (more.count == A(0)) return;
    const A all = count + more.count, away = more.mean - mean, part = quotient(more.count, all);
    mean += away * part;
    squares += more.squares + away * away * count * part;
    count = all;
  }
};

// Of gradients, and of their products with what forward made.
template <class A>
struct Products {
  A plain, along;

  FRCN_HD void join(const Products& more) {
    plain += more.plain;
    along += more.along;
  }
};

template <class T, class A, int V>
struct NormalizeForward {
  static constexpr int kLanes = V, kAhead = 4;  // kAhead: packs of each map that a thread has on their way from memory
  using Sums = Moments<A>;
  using Loaded = Pack<T, V>;
  using Value = T;
  struct Change {
    A mean, scale;
  };

  static FRCN_HD Loaded load_at(const DeviceNormalize& a, int64_t at) {
    return a.source ? load_own_pack<V>(reinterpret_cast<const T*>(a.source) + at) : Loaded{};
  }

  static FRCN_HD void add(Sums& sums, const Loaded& x) {
    Sums own{A(V), A(0), A(0)};
#pragma unroll
    for (int j = 0; j < V; ++j) own.mean += load<A>(x[j]);
    own.mean *= A(1) / V;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const A away = load<A>(x[j]) - own.mean;
      own.squares += away * away;
    }
    sums.join(own);
  }

  static FRCN_HD Change change(const DeviceNormalize& a, int64_t, const Sums& all) {
    return {all.mean, inverse_root(quotient(all.squares, all.count) + static_cast<A>(a.eps))};
  }

  static FRCN_HD void keep(const DeviceNormalize& a, int64_t image, const Change& c) {
    reinterpret_cast<A*>(a.scale)[image] = c.scale;
  }

  static FRCN_HD A changed(const Change& c, const Loaded& x, int j) { return (load<A>(x[j]) - c.mean) * c.scale; }
};

template <class T, class A, int V>
struct NormalizeBackward {
  static constexpr int kLanes = V, kAhead = sizeof(A) == 8 ? 1 : 2;
  using Sums = Products<A>;
  using Value = T;
  struct Loaded {
    Pack<T, V> grad, made;
  };
  struct Change {
    A mean, along, scale;
  };

  static FRCN_HD Loaded load_at(const DeviceNormalize& a, int64_t at) {
    return {load_own_pack<V>(reinterpret_cast<const T*>(a.target) + at),
            load_pack<V>(reinterpret_cast<const T*>(a.source) + at)};
  }

  static FRCN_HD void add(Sums& sums, const Loaded& x) {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      sums.plain += load<A>(x.grad[j]);
      sums.along += load<A>(x.grad[j]) * load<A>(x.made[j]);
    }
  }

  static FRCN_HD Change change(const DeviceNormalize& a, int64_t image, const Sums& all) {
    const A count = static_cast<A>(a.values);
    return {quotient(all.plain, count), quotient(all.along, count), reinterpret_cast<const A*>(a.scale)[image]};
  }

  static FRCN_HD void keep(const DeviceNormalize&, int64_t, const Change&) {}

  static FRCN_HD A changed(const Change& c, const Loaded& x, int j) {
    return c.scale * (load<A>(x.grad[j]) - c.mean - c.along * load<A>(x.made[j]));
  }
};

// Calls body(offset, loaded) for a thread's packs of a slice, each loaded ahead.
template <class Pass, class Body>
FRCN_HD void each_pack(const DeviceNormalize& a, int64_t image, int64_t slice, int thread, const Body& body) {
  const int64_t first = slice * a.slice_packs, last = first + a.slice_packs, end = last < a.packs ? last : a.packs;
  for (int64_t pack = first + thread; pack < end; pack += Pass::kAhead * kNormalizeThreads) {
    typename Pass::Loaded loaded[Pass::kAhead];
    const int64_t at = image * a.values + pack * Pass::kLanes;
    constexpr int64_t kBetween = int64_t{kNormalizeThreads} * Pass::kLanes;
#pragma unroll
    for (int k = 0; k < Pass::kAhead; ++k)
      if (pack + k * kNormalizeThreads < end) loaded[k] = Pass::load_at(a, at + k * kBetween);
#pragma unroll
    for (int k = 0; k < Pass::kAhead; ++k)
      if (pack + k * kNormalizeThreads < end) body(at + k * kBetween, loaded[k]);
  }
}

// Puts all threads' sums together, into the first one's. `block.each(f)` runs f for each thread, then waits.
template <class Block, class Sums>
FRCN_HD void join_threads(const Block& block, Sums* room) {
  for (int threads = kNormalizeThreads / 2; threads > 0; threads /= 2)
    block.each([&](int thread) {
      if (thread < threads) room[thread].join(room[thread + threads]);
    });
}

template <class Pass, class Block>
FRCN_HD void sum_slice(const DeviceNormalize& a, const Block& block, typename Pass::Sums* room, int64_t image,
                       int64_t slice) {
  block.each([&](int thread) {
    typename Pass::Sums sums{};
    each_pack<Pass>(a, image, slice, thread, [&](int64_t, const auto& loaded) { Pass::add(sums, loaded); });
    room[thread] = sums;
  });
  join_threads(block, room);
}

// The first of two kernels.
template <class Pass>
struct SumSlices {
  using Sums = typename Pass::Sums;

  template <class Block>
  static FRCN_HD void run(const DeviceNormalize& a, const Block& block, Sums* room, int64_t image, int64_t slice) {
    sum_slice<Pass>(a, block, room, image, slice);
    block.each([&](int thread) {
      if (thread == 0) reinterpret_cast<Sums*>(a.sums)[image * a.slices + slice] = room[0];
    });
  }
};

// The second, or the only one.
template <class Pass>
struct ChangeSlices {
  using Sums = typename Pass::Sums;
  using T = typename Pass::Value;

  template <class Block>
  static FRCN_HD void run(const DeviceNormalize& a, const Block& block, Sums* room, int64_t image, int64_t slice) {
    if (a.slices == 1) {
      sum_slice<Pass>(a, block, room, image, slice);
    } else {
      block.each([&](int thread) {
        Sums sums{};
        for (int k = thread; k < a.slices; k += kNormalizeThreads)
          sums.join(reinterpret_cast<const Sums*>(a.sums)[image * a.slices + k]);
        room[thread] = sums;
      });
      join_threads(block, room);
    }
    block.each([&](int thread) {
      const auto change = Pass::change(a, image, room[0]);
      if (slice == 0 && thread == 0) Pass::keep(a, image, change);
      each_pack<Pass>(a, image, slice, thread, [&](int64_t at, const auto& loaded) {
        Pack<T, Pass::kLanes> made;
#pragma unroll
        for (int j = 0; j < Pass::kLanes; ++j) store(made[j], Pass::changed(change, loaded, j));
        store_pack(reinterpret_cast<T*>(a.target) + at, made);
      });
    });
  }
};

}  // namespace FRCN_ISA
