// What the warpgroups of a block do together on sm_90a.
#pragma once

#include <cstdint>

#include "common/float16.h"

// A thread's sums as the operands of an instruction: %0 and on, then the two matrix descriptors.
#define FRCN_SUMS_8(n) "+f"(sums[n][0]), "+f"(sums[n][1]), "+f"(sums[n][2]), "+f"(sums[n][3])
#define FRCN_SUMS_32(n) FRCN_SUMS_8(n), FRCN_SUMS_8(n + 1), FRCN_SUMS_8(n + 2), FRCN_SUMS_8(n + 3)
#define FRCN_SUMS_64(n) FRCN_SUMS_32(n), FRCN_SUMS_32(n + 4)
#define FRCN_SUMS_128(n) FRCN_SUMS_64(n), FRCN_SUMS_64(n + 8)
#define FRCN_TEN(t) "%" t "0,%" t "1,%" t "2,%" t "3,%" t "4,%" t "5,%" t "6,%" t "7,%" t "8,%" t "9,"
#define FRCN_NAMES_32 FRCN_TEN("") "%10,%11,%12,%13,%14,%15"
#define FRCN_NAMES_64 FRCN_TEN("") FRCN_TEN("1") FRCN_TEN("2") "%30,%31"
#define FRCN_NAMES_128 \
  FRCN_TEN("") FRCN_TEN("1") FRCN_TEN("2") FRCN_TEN("3") FRCN_TEN("4") FRCN_TEN("5") "%60,%61,%62,%63"

// Adds to 64 rows by N columns of sums; INPUTS and FLAGS are of the type: how many inputs, and which way they lie.
#define FRCN_GROUP_PRODUCT(T, N, INPUTS, NAME, LEFT, RIGHT, FLAGS)                                                   \
  __device__ __forceinline__ void multiply_group(const T*, float (&sums)[N / 8][4], uint64_t left, uint64_t right) { \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k" #INPUTS ".f32." NAME "." NAME " {" FRCN_NAMES_##N        \
                 "}, %" LEFT ", %" RIGHT ", 1, 1, 1" FLAGS ";"                                                       \
                 : FRCN_SUMS_##N(0)                                                                                  \
                 : "l"(left), "l"(right)                                                                             \
                 : "memory");                                                                                        \
  }
#define FRCN_GROUP_PRODUCTS(T, INPUTS, NAME, FLAGS)          \
  FRCN_GROUP_PRODUCT(T, 32, INPUTS, NAME, "16", "17", FLAGS) \
  FRCN_GROUP_PRODUCT(T, 64, INPUTS, NAME, "32", "33", FLAGS) \
  FRCN_GROUP_PRODUCT(T, 128, INPUTS, NAME, "64", "65", FLAGS)

namespace FRCN_ISA {

FRCN_GROUP_PRODUCTS(float16, 16, "f16", ", 0, 0")
FRCN_GROUP_PRODUCTS(bfloat16, 16, "bf16", ", 0, 0")
// TF32 by leaving the last 13 bits unread, as the products of warps do.
FRCN_GROUP_PRODUCTS(float, 8, "tf32", "")

}  // namespace FRCN_ISA
