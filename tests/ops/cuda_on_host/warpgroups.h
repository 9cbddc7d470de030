// What warpgroups of a block do on the host, by the PTX manual: products of matrices in shared memory that run beside
// the threads (wgmma.mma_async), and what orders them. A warpgroup is 128 threads one after another.
//
// A thread computes its own sums, at the earliest when it begins the product or at the latest when it waits for it: no
// thread waits for others, as none may rely on it. Whatever the manual leaves undefined ends the program.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <tuple>
#include <vector>

#include "common/float16.h"

namespace FRCN_ISA {

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "a block on the host: %s\n", what);
  std::abort();
}

// As tensor cores read it.
inline float operand(float value) {  // TF32
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits &= ~0x1fffu;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}
template <class T>
float operand(T value) {
  return FRCN_ISA::load<float>(value);
}

class Warpgroups {
  using Sums = std::vector<float>;
  using Key = std::tuple<uint64_t, uint64_t, int, const void*>;  // descriptors, columns, type
  struct Product {
    std::function<Sums()> find;
    Sums found;
  };
  struct Thread {
    std::vector<int> arrived;  // pieces whose copies it has waited for, without a fence since
    bool fenced = false;       // what it did with its sums
    size_t begun = 0;          // products
    std::vector<Product> products;
    std::deque<std::vector<Product>> groups;
    float* sums = nullptr;  // that products on their way add to, and what is in them meanwhile
    Sums held;
  };
  static constexpr int kThreads = 128, kRowBytes = 32;  // of a product's operands

 public:
  // Where the block's memory begins in its processor's.
  static constexpr uint32_t kFirst = 1024;

  Warpgroups(int threads, const char* room, int size, bool early)
      : threads_(threads), begun_(threads / kThreads), room_(room), size_(size), hidden_(size / 16), early_(early) {}

  // Copies write as threads do, which the tensor cores see nothing of before the thread's fence.
  void copy(int place) { ++hidden_[place / 16]; }
  void arrive(int thread, int place) { threads_[thread].arrived.push_back(place / 16); }
  void fence_copies(int thread) {
    for (int piece : threads_[thread].arrived) --hidden_[piece];
    threads_[thread].arrived.clear();
  }

  void fence_sums(int thread) { threads_[thread].fenced = true; }

  // m64nNk16 of 16 bits, or m64nNk8 of TF32, added to a thread's share of 64 x N sums.
  template <class T, int kBlocks>
  void multiply(int thread, float (&sums)[kBlocks][4], uint64_t left, uint64_t right) {
    Thread& own = threads_[thread];
    static const char type = 0;  // one for each T
    auto& begun = begun_[thread / kThreads];
    const Key key{left, right, 8 * kBlocks, &type};
    if (own.begun == begun.size()) begun.push_back(key);
    if (begun[own.begun++] != key) fail("threads of a warpgroup that begin different products");
    if (own.sums) {
      if (own.sums != sums[0] || own.held.size() != 4 * kBlocks) fail("products on their way to two places");
    } else {
      if (!own.fenced) fail("a product without a fence after what the thread did with its sums");
      own.sums = sums[0];
      own.held.assign(own.sums, own.sums + 4 * kBlocks);
      std::fill(own.sums, own.sums + 4 * kBlocks, std::numeric_limits<float>::quiet_NaN());
    }
    Product product{[=] { return find<T>(thread % kThreads, 4 * kBlocks, left, right); }, {}};
    if (early_) product.found = product.find();
    own.products.push_back(std::move(product));
  }
  void commit(int thread) {
    Thread& own = threads_[thread];
    own.groups.push_back(std::move(own.products));
    own.products.clear();
  }
  void wait(int thread, size_t groups) {
    Thread& own = threads_[thread];
    for (; own.groups.size() > groups; own.groups.pop_front())
      for (Product& product : own.groups.front()) {
        if (!early_) product.found = product.find();
        for (size_t n = 0; n < product.found.size(); ++n) own.held[n] += product.found[n];
      }
    if (!own.sums || !own.groups.empty() || !own.products.empty()) return;
    std::copy(own.held.begin(), own.held.end(), own.sums);
    own.sums = nullptr;
    // From here on the thread, or its compiler, does with them what it likes.
    own.fenced = false;
  }

  void end() const {
    for (size_t n = 0; n < threads_.size(); ++n) {
      if (!threads_[n].groups.empty() || !threads_[n].products.empty()) fail("products that nobody waited for");
      if (threads_[n].begun != begun_[n / kThreads].size()) fail("products that only a part of a warpgroup began");
    }
  }

 private:
  // What a product adds to the thread's sums. Of each block of eight columns these are two beside each other in row
  // lane / 4 of the warp's 16 rows, then the same eight rows below.
  template <class T>
  Sums find(int thread, int count, uint64_t left, uint64_t right) const {
    constexpr int kInputs = kRowBytes / sizeof(T);
    const int warp = thread / 32, lane = thread % 32;
    float rows[2][kInputs], column[kInputs];
    for (int down = 0; down < 2; ++down) read<T>(left, 16 * warp + lane / 4 + 8 * down, rows[down]);
    Sums sums(count);
    for (int n = 0; n < count; ++n) {
      if (n % 4 > 1) continue;
      read<T>(right, n / 4 * 8 + lane % 4 * 2 + n % 2, column);
      for (int down = 0; down < 2; ++down)
        for (int k = 0; k < kInputs; ++k) sums[n + 2 * down] += rows[down][k] * column[k];
    }
    return sums;
  }

  // A row of a matrix by its descriptor: inputs beside each other, pieces of 16 bytes swizzled within 64.
  template <class T>
  void read(uint64_t descriptor, int row, float* values) const {
    const auto field = [&](int first, int bits) {
      return static_cast<uint32_t>(descriptor >> first) & ((1u << bits) - 1);
    };
    const uint32_t start = field(0, 14) << 4, stride = field(32, 14) << 4;
    if (field(14, 2) | field(30, 2) | field(46, 3) | field(52, 10)) fail("a descriptor with bits that mean nothing");
    if (field(62, 2) != 2 || field(49, 3) != 0) fail("a descriptor that is not of 64 bytes swizzled");
    // The pattern repeats after 512 bytes, and only steps along a row begin in its midst.
    if (start % 512 >= 64) fail("a matrix that does not begin with the pattern of the swizzle");
    constexpr int kValues = 16 / sizeof(T);
    for (int piece = 0; piece < kRowBytes / 16; ++piece) {
      uint32_t address = start + row / 8 * stride + row % 8 * 64 + piece * 16;
      address ^= (address >> 7 & 3) << 4;
      const int64_t place = static_cast<int64_t>(address) - kFirst;
      if (place < 0 || place + 16 > size_) fail("a matrix outside of the room");
      if (hidden_[place / 16]) fail("an operand whose copy is on its way, or without a fence after it");
      T parts[kValues];
      std::memcpy(parts, room_ + place, 16);
      for (int n = 0; n < kValues; ++n) values[piece * kValues + n] = operand(parts[n]);
    }
  }

  std::vector<Thread> threads_;
  std::vector<std::vector<Key>> begun_;  // by each warpgroup
  const char* room_;
  int size_;
  std::vector<int> hidden_;  // copies to each 16 bytes that the tensor cores do not see yet
  bool early_;
};

}  // namespace FRCN_ISA
