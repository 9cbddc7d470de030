// The transforms of F(2x2, k x k) as matrices, of vectors of channels: to points, and from them. Of k taps there are
// k + 1 points an axis, at which polynomials are multiplied: 0, 1, -1 and infinity for 3 taps, 2 and -1/2 too for 5.
#pragma once

#include "common/vector.h"

namespace FRCN_ISA {

// From values of the source.
template <int Taps>
struct SourceMatrix;
template <>
struct SourceMatrix<3> {
  static constexpr int kRows = 4, kColumns = 4;
  static constexpr float kValues[4][4] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, -1, 0, 1}};
};
template <>
struct SourceMatrix<5> {
  static constexpr int kRows = 6, kColumns = 6;
  static constexpr float kValues[6][6] = {{1, 1.5f, -2, -1.5f, 1, 0}, {0, -1, -2.5f, -0.5f, 1, 0},
                                          {0, 1, 0.5f, -2.5f, 1, 0},  {0, -0.5f, -1, 0.5f, 1, 0},
                                          {0, 2, -1, -2, 1, 0},       {0, 1, 1.5f, -2, -1.5f, 1}};
};

// From weights.
template <int Taps>
struct WeightMatrix;
template <>
struct WeightMatrix<3> {
  static constexpr int kRows = 4, kColumns = 3;
  static constexpr float kValues[4][3] = {{1, 0, 0}, {0.5f, 0.5f, 0.5f}, {0.5f, -0.5f, 0.5f}, {0, 0, 1}};
};
template <>
struct WeightMatrix<5> {
  static constexpr float kThird = 1.0f / 3, kPart = 1.0f / 15;
  static constexpr int kRows = 6, kColumns = 5;
  static constexpr float kValues[6][5] = {{1, 0, 0, 0, 0},
                                          {-kThird, -kThird, -kThird, -kThird, -kThird},
                                          {kThird, -kThird, kThird, -kThird, kThird},
                                          {kPart, 2 * kPart, 4 * kPart, 8 * kPart, 16 * kPart},
                                          {-16 * kPart, 8 * kPart, -4 * kPart, 2 * kPart, -kPart},
                                          {0, 0, 0, 0, 1}};
};

// To the two results.
template <int Taps>
struct ResultMatrix;
template <>
struct ResultMatrix<3> {
  static constexpr int kRows = 2, kColumns = 4;
  static constexpr float kValues[2][4] = {{1, 1, 1, 0}, {0, 1, -1, 1}};
};
template <>
struct ResultMatrix<5> {
  static constexpr int kRows = 2, kColumns = 6;
  static constexpr float kValues[2][6] = {{1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -0.5f, 1}};
};

template <class Matrix>
struct Transposed {
  static constexpr int kRows = Matrix::kColumns, kColumns = Matrix::kRows;
  static constexpr float at(int row, int column) { return Matrix::kValues[column][row]; }
};
template <class Matrix>
struct AsItIs {
  static constexpr int kRows = Matrix::kRows, kColumns = Matrix::kColumns;
  static constexpr float at(int row, int column) { return Matrix::kValues[row][column]; }
};

// sum + one row's products from a column on; zeros take no work. `Begun`: whether there is a sum yet.
template <class Matrix, int Row, int Column, bool Begun, class V>
FRCN_HD V add_terms(V sum, const V* from) {
  if constexpr (Column == Matrix::kColumns) {
    return sum;
  } else {
    constexpr float factor = Matrix::at(Row, Column);
    constexpr bool begun = Begun || factor != 0;
    if constexpr (factor == 1)
      sum = Begun ? sum + from[Column] : from[Column];
    else if constexpr (factor == -1)
      sum = Begun ? sum - from[Column] : -from[Column];
    else if constexpr (factor != 0)
      sum = Begun ? sum + from[Column] * factor : from[Column] * factor;
    return add_terms<Matrix, Row, Column + 1, begun>(sum, from);
  }
}

template <class Matrix, int Row = 0, class V>
FRCN_HD void multiply_matrix(const V* from, V* to) {
  if constexpr (Row < Matrix::kRows) {
    to[Row] = add_terms<Matrix, Row, 0, false>(V{}, from);
    multiply_matrix<Matrix, Row + 1>(from, to);
  }
}

// Along columns, then along rows.
template <class Matrix, class V>
FRCN_HD void transform(const V (&from)[Matrix::kColumns][Matrix::kColumns], V (&to)[Matrix::kRows][Matrix::kRows]) {
  V columns[Matrix::kRows][Matrix::kColumns];
#pragma GCC unroll 6
  for (int j = 0; j < Matrix::kColumns; ++j) {
    V column[Matrix::kColumns], found[Matrix::kRows];
    for (int i = 0; i < Matrix::kColumns; ++i) column[i] = from[i][j];
    multiply_matrix<Matrix>(column, found);
    for (int i = 0; i < Matrix::kRows; ++i) columns[i][j] = found[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < Matrix::kRows; ++i) multiply_matrix<Matrix>(columns[i], to[i]);
}

}  // namespace FRCN_ISA
