// A block of a GPU's threads on the host, where kernels need more than barriers: every thread is a fiber, and what a
// warp does together (loads of matrices, products) follows the definitions in the PTX manual. What warpgroups do is in
// warpgroups.h.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "conv_recurrent/step_product_warpgroups.h"
#include "conv_recurrent/step_product_warps.h"
#include "warpgroups.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace FRCN_ISA {

// When asynchronous copies are done: as late or as early as they may be. Warpgroups' products then read their operands
// the other way round, early or late.
enum class Copies { late, early };

class Fibers {
  struct Barrier {
    int size = 0, arrived = 0, turn = 0;
  };
  struct Copy {
    int to;
    const char* from;
    bool is_there;
  };
  struct Fiber {
    ucontext_t context{};  // where it begins
    jmp_buf place{};       // where it goes on
    std::unique_ptr<char[]> stack;
    bool begun_to_run = false;
    bool done = false;
    std::vector<Copy> begun;
    std::deque<std::vector<Copy>> groups;
    int exchanges = 0;  // of the warp
  };
  // What lanes give each other, twice: who is ahead writes to the other one, and cannot be further ahead.
  struct Matrices {
    float left[16][16], right[8][16];
  };
  struct Warp {
    Barrier barrier;
    int places[2][32];
    Matrices matrices[2];
  };
  static constexpr size_t kStack = 1 << 18;
  static constexpr char kUnwritten = -1;  // NaN in every type
  static constexpr int kMain = -1;

 public:
  Fibers(int threads, int room, Copies copies)
      : memory_(static_cast<size_t>(room) + 64, kUnwritten),
        fibers_(threads),
        warps_(threads / 32),
        copies_(copies),
        room_(memory_.data() + (64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64) % 64),
        size_(room),
        warpgroups_(threads, room_, room, copies == Copies::late) {
    block_.size = threads;
    for (auto& warp : warps_) warp.barrier.size = 32;
  }

  // Runs `body(thread)` on all threads, which take turns at their barriers.
  void run(const std::function<void(int)>& body) {
    body_ = &body;
    for (auto& fiber : fibers_) {
      fiber.stack.reset(new char[kStack]);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStack;
      const auto self = reinterpret_cast<uintptr_t>(this);
      makecontext(&fiber.context, reinterpret_cast<void (*)()>(&Fibers::enter), 2, static_cast<unsigned>(self >> 32),
                  static_cast<unsigned>(self));
    }
    leave(main_, 0);
    for (const auto& fiber : fibers_)
      if (!fiber.begun.empty() || !fiber.groups.empty()) fail("copies that nobody waited for");
    if (block_.arrived) fail("threads that ended before a barrier");
    warpgroups_.end();
  }

  char* room() const { return room_; }
  Warpgroups& warpgroups() { return warpgroups_; }
  void sync() { meet(block_); }

  void copy(int to, const char* from, bool is_there) {
    const Copy copy{to, from, is_there};
    check(to, 16);
    warpgroups_.copy(to);
    if (copies_ == Copies::early) done(copy);
    fibers_[now_].begun.push_back(copy);
  }
  void commit() {
    Fiber& fiber = fibers_[now_];
    fiber.groups.push_back(std::move(fiber.begun));
    fiber.begun.clear();
  }
  void wait(size_t groups) {
    Fiber& fiber = fibers_[now_];
    for (; fiber.groups.size() > groups; fiber.groups.pop_front())
      for (const Copy& copy : fiber.groups.front()) {
        if (copies_ == Copies::late) done(copy);
        warpgroups_.arrive(now_, copy.to);
      }
  }

  // ldmatrix.x4: lane l gives the address of row l % 8 of matrix l / 8, and gets of each matrix word l % 4 of row l
  // / 4.
  void load(uint32_t (&parts)[4], int from) {
    const int lane = now_ % 32;
    check(from, 16);
    Warp& warp = warps_[now_ / 32];
    const int* places = warp.places[turn()];
    warp.places[turn()][lane] = from;
    meet(warp.barrier);
    for (int n = 0; n < 4; ++n)
      std::memcpy(&parts[n], room_ + places[8 * n + lane / 4] + 4 * (lane % 4), sizeof parts[n]);
    ++fibers_[now_].exchanges;
  }

  // mma.m16n8k16 of 16 bits, or .m16n8k8 of TF32.
  template <class T>
  void multiply(float (&sums)[4], const uint32_t (&left)[4], const uint32_t* right) {
    constexpr int per_word = 4 / sizeof(T), words = 6;
    T parts[words * per_word];
    std::memcpy(parts, left, sizeof left);
    std::memcpy(parts + 4 * per_word, right, 2 * sizeof *right);
    const int lane = now_ % 32;
    Warp& warp = warps_[now_ / 32];
    Matrices& m = warp.matrices[turn()];
    // Word 0 of the left matrix: row lane / 4; 1: eight rows below; 2 and 3: the second half of its columns. The right
    // one's words: the halves of its rows, at column lane / 4.
    for (int n = 0; n < words * per_word; ++n) {
      const int word = n / per_word, second = word < 4 ? word / 2 : word - 4;
      const int k = (second * 4 + lane % 4) * per_word + n % per_word;
      (word < 4 ? m.left[word % 2 * 8 + lane / 4] : m.right[lane / 4])[k] = operand(parts[n]);
    }
    meet(warp.barrier);
    for (int n = 0; n < 4; ++n) {
      const float *row = m.left[lane / 4 + n / 2 * 8], *column = m.right[lane % 4 * 2 + n % 2];
      float sum = sums[n];
      for (int k = 0; k < 8 * per_word; ++k) sum += row[k] * column[k];
      sums[n] = sum;
    }
    ++fibers_[now_].exchanges;
  }

 private:
  void check(int place, int size) const {
    if (place < 0 || place % size || place + size > size_) fail("a place outside of the room, or not aligned");
  }
  void done(const Copy& copy) {
    if (copy.is_there && reinterpret_cast<uintptr_t>(copy.from) % 16) fail("a copy that is not aligned");
    if (copy.is_there) {
      std::memcpy(room_ + copy.to, copy.from, 16);
    } else {
      std::memset(room_ + copy.to, 0, 16);
    }
  }

  // Lanes wait for their warp, and meanwhile the next one runs; threads for their block.
  void meet(Barrier& barrier) {
    idle_ = 0;
    const int turn = barrier.turn;
    if (++barrier.arrived == barrier.size) {
      barrier.arrived = 0;
      ++barrier.turn;
      return;
    }
    const int first = barrier.size == 32 ? now_ / 32 * 32 : 0;
    while (barrier.turn == turn) {
      if (++idle_ > 4 * static_cast<int>(fibers_.size())) fail("threads wait for each other for ever");
      int next = now_;
      do next = first + (next + 1 - first) % barrier.size;
      while (fibers_[next].done && next != now_);
      if (next != now_) leave(fibers_[now_].place, next);
    }
  }

  int turn() const { return fibers_[now_].exchanges % 2; }

  static void enter(unsigned high, unsigned low) {
    auto* self = reinterpret_cast<Fibers*>(static_cast<uintptr_t>(high) << 32 | low);
    self->arrive(nullptr);
    (*self->body_)(self->now_);
    self->idle_ = 0;
    self->fibers_[self->now_].done = true;
    for (int n = 0; n < static_cast<int>(self->fibers_.size()); ++n)
      if (!self->fibers_[n].done) self->leave(self->fibers_[self->now_].place, n);
    self->leave(self->fibers_[self->now_].place, kMain);
    std::abort();
  }

  // Goes on with another fiber, and returns when somebody goes on with this one. Signal masks, which a swap of contexts
  // would ask the system for, stay as they are. The address sanitizer is told which stack is in use.
  void leave(jmp_buf& here, int next) {
    void* fake = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    const bool is_last = now_ != kMain && fibers_[now_].done;
    const void* stack = next == kMain ? main_stack_ : fibers_[next].stack.get();
    __sanitizer_start_switch_fiber(is_last ? nullptr : &fake, stack, next == kMain ? main_size_ : kStack);
#endif
    now_ = next;
    if (_setjmp(here) == 0) {
      if (next == kMain) _longjmp(main_, 1);
      if (fibers_[next].begun_to_run) _longjmp(fibers_[next].place, 1);
      fibers_[next].begun_to_run = true;
      setcontext(&fibers_[next].context);
    }
    arrive(fake);
  }
  void arrive([[maybe_unused]] void* fake) {
#if defined(__SANITIZE_ADDRESS__)
    const void* stack = nullptr;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(fake, &stack, &size);
    if (!main_stack_) main_stack_ = stack, main_size_ = size;
#endif
  }

  std::vector<char> memory_;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  Copies copies_;
  char* room_;
  int size_;
  Warpgroups warpgroups_;
  Barrier block_;
  jmp_buf main_{};
  const void* main_stack_ = nullptr;
  size_t main_size_ = 0;
  const std::function<void(int)>* body_ = nullptr;
  int now_ = kMain, idle_ = 0;
};

// A thread of such a block.
struct HostThread {
  template <class T, class Tile>
  using Product = WarpProduct<T, Tile, HostThread>;

  Fibers* fibers;
  int number;

  int thread() const { return number; }
  char* room() const { return fibers->room(); }
  void sync() const { fibers->sync(); }
  template <int V, class T>
  Pack<T, V> load_pack(const T* source) const {
    return load_own_pack<V>(source);
  }
  void copy(int to, const char* from, bool is_there) const { fibers->copy(to, from, is_there); }
  void commit() const { fibers->commit(); }
  template <int kGroups>
  void wait() const {
    fibers->wait(kGroups);
  }
  void load(uint32_t (&parts)[4], int from) const { fibers->load(parts, from); }
  template <class T>
  void multiply(float (&sums)[4], const uint32_t (&left)[4], const uint32_t* right) const {
    fibers->multiply<T>(sums, left, right);
  }
};

// One whose products are its warpgroup's.
struct HostWarpgroupThread : HostThread {
  template <class T, class Tile>
  using Product = WarpgroupProduct<T, Tile, HostWarpgroupThread>;

  static uint32_t at(int place) { return Warpgroups::kFirst + place; }
  int warp() const { return number / 32; }
  void fence_copies() const { fibers->warpgroups().fence_copies(number); }
  void fence_sums() const { fibers->warpgroups().fence_sums(number); }
  template <class T, int kBlocks>
  void multiply(float (&sums)[kBlocks][4], uint64_t left, uint64_t right) const {
    fibers->warpgroups().multiply<T>(number, sums, left, right);
  }
  void commit_products() const { fibers->warpgroups().commit(number); }
  template <int kBlocks>
  void wait_for_products(float (&)[kBlocks][4]) const {
    fibers->warpgroups().wait(number, 0);
  }
};

}  // namespace FRCN_ISA
