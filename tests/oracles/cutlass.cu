// What tests hold for a GPU's products of matrices (tests/ops/cuda_on_host), against the layouts that CUTLASS 4 has of
// the same instructions: `mma.sync`, `ldmatrix` and `wgmma`, its matrix descriptors and its swizzle. Whole numbers, so
// that every sum is exact. Prints what differs, and how often.
#include <cstdio>
#include <cute/arch/mma_sm90_desc.hpp>
#include <cute/atom/copy_traits_sm75.hpp>
#include <cute/atom/mma_traits_sm80.hpp>
#include <cute/atom/mma_traits_sm90_gmma.hpp>
#include <cute/tensor.hpp>
#include <vector>

#include "ops/cuda_on_host/block.h"

using namespace cute;
namespace ours = FRCN_ISA;

static int differences = 0;

template <class... Values>
static void expect(bool same, const char* what, Values... values) {
  if (same) return;
  if (++differences < 20) std::printf(what, values...);
}

static float value(int row, int k, int salt) { return static_cast<float>((row * 7 + k * 5 + salt) % 11 - 5); }

static float sum_of(int row, int column, int inputs) {
  float sum = 0;
  for (int k = 0; k < inputs; ++k) sum += value(row, k, 0) * value(column, k, 3);
  return sum;
}

template <class T>
static T made(float number) {
  T made;
  ours::store(made, number);
  return made;
}

static constexpr int kThreads = 128;  // four warps, which do the same

// One instruction of a warp: a thread's operands and sums are where CUTLASS has them.
template <class Operation, class T>
static void check_warp(const char* name) {
  using Traits = MMA_Traits<Operation>;
  constexpr int kInputs = size<2>(typename Traits::Shape_MNK{}), kValues = 4 / sizeof(T);
  const typename Traits::ALayout left_of;
  const typename Traits::BLayout right_of;
  const typename Traits::CLayout sums_of;
  std::vector<std::array<float, 4>> sums(kThreads);
  ours::Fibers fibers(kThreads, 1024, ours::Copies::late);
  fibers.run([&](int thread) {
    const int lane = thread % 32;
    T left[4 * kValues], right[2 * kValues];
    for (int n = 0; n < 4 * kValues; ++n) {
      const int at = left_of(lane, n);
      left[n] = made<T>(value(at % 16, at / 16, 0));
    }
    for (int n = 0; n < 2 * kValues; ++n) {
      const int at = right_of(lane, n);
      right[n] = made<T>(value(at % 8, at / 8, 3));
    }
    uint32_t words[4], others[2];
    std::memcpy(words, left, sizeof words);
    std::memcpy(others, right, sizeof others);
    float own[4] = {};
    fibers.multiply<T>(own, words, others);
    std::copy(own, own + 4, sums[thread].begin());
  });
  for (int thread = 0; thread < kThreads; ++thread)
    for (int n = 0; n < 4; ++n) {
      const int at = sums_of(thread % 32, n);
      expect(sums[thread][n] == sum_of(at % 16, at / 16, kInputs), "%s: thread %d has another sum %d\n", name, thread,
             n);
    }
}

static void check_loads() {
  using Traits = Copy_Traits<SM75_U32x4_LDSM_N>;
  const typename Traits::SrcLayout from;
  const typename Traits::DstLayout to;
  std::vector<std::array<uint32_t, 4>> found(kThreads);
  ours::Fibers fibers(kThreads, 32 * 16, ours::Copies::late);
  for (uint32_t n = 0; n < 32 * 4; ++n) std::memcpy(fibers.room() + 4 * n, &n, sizeof n);
  fibers.run([&](int thread) {
    uint32_t parts[4];
    fibers.load(parts, thread % 32 * 16);
    std::copy(parts, parts + 4, found[thread].begin());
  });
  for (int thread = 0; thread < kThreads; ++thread)
    for (int n = 0; n < 4; ++n) {
      // Bits of all lanes' rows, one row after another.
      const int bit = to(thread % 32, n * 32);
      static_assert(size<1>(typename Traits::SrcLayout{}) == 128);
      expect(found[thread][n] == static_cast<uint32_t>(bit / 32), "ldmatrix: lane %d has another word %d\n", thread, n);
      expect(from(bit / 128, bit % 128) == bit, "ldmatrix: rows do not follow each other at bit %d\n", bit);
    }
}

// One instruction of a warpgroup, whose operands are where CUTLASS puts them in a buffer of rows of 64 bytes: `half`
// of these rows.
template <class Operation, class Element, class T, int kColumns>
static void check_group(const char* name, int half) {
  using Traits = MMA_Traits<Operation>;
  constexpr int kRows = 64, kInputs = size<2>(typename Traits::Shape_MNK{}), kPitch = 2 * kInputs;
  const auto layout = as_position_independent_swizzle_layout(
      tile_to_shape(GMMA::Layout_K_SW64_Atom<Element>{}, Shape<Int<kRows + kColumns>, Int<kPitch>>{}));
  const typename Traits::CLayout sums_of;
  std::vector<T> room((kRows + kColumns) * kPitch, made<T>(99));
  for (int row = 0; row < kRows + kColumns; ++row)
    for (int k = 0; k < kInputs; ++k) {
      const float number = row < kRows ? value(row, k, 0) : value(row - kRows, k, 3);
      const int place = static_cast<int>(layout(row, half * kInputs + k)) * sizeof(T);
      std::memcpy(reinterpret_cast<char*>(room.data()) + place, std::vector<T>{made<T>(number)}.data(), sizeof(T));
      const int piece = half * 2 + k * static_cast<int>(sizeof(T)) / 16;
      expect(place == ours::place_of(row, piece) + k * static_cast<int>(sizeof(T)) % 16,
             "%s: row %d, input %d lies elsewhere\n", name, row, k);
    }
  const auto describe = [&](int row) {
    const uint32_t address = ours::Warpgroups::kFirst + row * 64;
    GmmaDescriptor found;
    found.desc_ = 0;
    found.bitfield.layout_type_ = static_cast<uint8_t>(SM90::GMMA::LayoutType::B64);
    found.bitfield.stride_byte_offset_ = 8 * 64 >> 4;
    found.bitfield.leading_byte_offset_ = 1;
    found.bitfield.start_address_ = (address + half * 32) >> 4;
    const uint64_t own = ours::describe_rows(ours::begin_rows(address), half * ours::kTwoPieces);
    expect(found.desc_ == own, "%s: another descriptor: %llx, ours %llx\n", name,
           static_cast<unsigned long long>(found.desc_), static_cast<unsigned long long>(own));
    return found.desc_;
  };
  const int bytes = static_cast<int>(room.size() * sizeof(T));
  ours::Warpgroups group(128, reinterpret_cast<const char*>(room.data()), bytes, true);
  for (int thread = 0; thread < 128; ++thread) {
    float sums[kColumns / 8][4] = {};
    group.fence_sums(thread);
    group.multiply<T>(thread, sums, describe(0), describe(kRows));
    group.commit(thread);
    group.wait(thread, 0);
    for (int n = 0; n < kColumns / 2; ++n) {
      const int at = sums_of(thread, n);
      expect(sums[0][n] == sum_of(at % kRows, at / kRows, kInputs), "%s: thread %d has another sum %d\n", name, thread,
             n);
    }
  }
}

template <int kColumns, class Bfloat, class Half, class Tf32>
static void check_groups() {
  for (int half = 0; half < 2; ++half) {
    check_group<Bfloat, bfloat16_t, ours::bfloat16, kColumns>("wgmma of bfloat16", half);
    check_group<Half, half_t, ours::float16, kColumns>("wgmma of float16", half);
    check_group<Tf32, tfloat32_t, float, kColumns>("wgmma of tf32", half);
  }
}

int main() {
  constexpr auto K = GMMA::Major::K;
  check_loads();
  check_warp<SM80_16x8x16_F32BF16BF16F32_TN, ours::bfloat16>("mma of bfloat16");
  check_warp<SM80_16x8x16_F32F16F16F32_TN, ours::float16>("mma of float16");
  check_warp<SM80_16x8x8_F32TF32TF32F32_TN, float>("mma of tf32");
  check_groups<32, SM90_64x32x16_F32BF16BF16_SS<K, K>, SM90_64x32x16_F32F16F16_SS<K, K>,
               SM90_64x32x8_F32TF32TF32_SS_TN<>>();
  check_groups<64, SM90_64x64x16_F32BF16BF16_SS<K, K>, SM90_64x64x16_F32F16F16_SS<K, K>,
               SM90_64x64x8_F32TF32TF32_SS_TN<>>();
  check_groups<128, SM90_64x128x16_F32BF16BF16_SS<K, K>, SM90_64x128x16_F32F16F16_SS<K, K>,
               SM90_64x128x8_F32TF32TF32_SS_TN<>>();
  std::printf("%d differences\n", differences);
  return differences > 0;
}
