// The transforms of F(2x2,3x3), of vectors of channels: to 16 points, and from them.
#pragma once

#include "common/vector.h"

namespace FRCN_ISA {

// B'd of four values, and B'dB of 4x4.
template <class V>
FRCN_HD void source_points(const V (&d)[4], V (&to)[4]) {
  to[0] = d[0] - d[2];
  to[1] = d[1] + d[2];
  to[2] = d[2] - d[1];
  to[3] = d[1] - d[3];
}

// Gg of three weights.
template <class V>
FRCN_HD void weight_points(const V (&g)[3], V (&to)[4]) {
  const V half = (g[0] + g[2]) * 0.5f;
  to[0] = g[0];
  to[1] = half + g[1] * 0.5f;
  to[2] = half - g[1] * 0.5f;
  to[3] = g[2];
}

// A'm of four points: two results.
template <class V>
FRCN_HD void results(const V (&m)[4], V (&to)[2]) {
  to[0] = m[0] + m[1] + m[2];
  to[1] = m[1] - m[2] - m[3];
}

// The transposes: Ad of two results' gradients, and G'm of the four points' gradients.
template <class V>
FRCN_HD void result_gradient_points(const V (&d)[2], V (&to)[4]) {
  to[0] = d[0];
  to[1] = d[0] + d[1];
  to[2] = d[0] - d[1];
  to[3] = -d[1];
}

template <class V>
FRCN_HD void weight_gradients(const V (&m)[4], V (&to)[3]) {
  const V sum = (m[1] + m[2]) * 0.5f;
  to[0] = m[0] + sum;
  to[1] = (m[1] - m[2]) * 0.5f;
  to[2] = sum + m[3];
}

// One of them along columns, then along rows: (From, From) values to (To, To).
template <int From, int To, class V, class Transform>
FRCN_HD void both_ways(const V (&from)[From][From], V (&to)[To][To], Transform transform) {
  V columns[From][To];
#pragma GCC unroll 4
  for (int j = 0; j < From; ++j) {
    V column[From];
    for (int i = 0; i < From; ++i) column[i] = from[i][j];
    transform(column, columns[j]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < To; ++i) {
    V row[From], found[To];
    for (int j = 0; j < From; ++j) row[j] = columns[j][i];
    transform(row, found);
    for (int j = 0; j < To; ++j) to[i][j] = found[j];
  }
}

}  // namespace FRCN_ISA
