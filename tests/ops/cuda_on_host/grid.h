// Blocks of a GPU on the host that wait for each other: each is an operating system's thread with fibers of its own,
// one runs at a time, and which one goes on is drawn by chance.
//
// What blocks write to the maps that all of them read is seen by others as late as it may be, after fences of the
// writer and of the reader, or at once.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "block.h"

namespace FRCN_ISA {

class HostGrid {
  static constexpr int64_t kUnit = 16;  // bytes, which one thread writes
  using Unit = Pack<uint64_t, 2>;

 public:
  // `begin`, `end`: of the maps' memory.
  HostGrid(int blocks, unsigned seed, Copies seen, char* begin, char* end)
      : blocks_(blocks), random_(seed), seen_late_(seen == Copies::late), maps_(reinterpret_cast<Unit*>(begin)) {
    last_.assign(maps_, maps_ + (end - begin) / kUnit);
    published_ = last_;
    seen_.assign(blocks, last_);
    new_.assign(blocks, std::vector<bool>(last_.size()));
    done_.assign(blocks, false);
  }

  void run(const std::function<void(int)>& body) {
    std::vector<std::thread> threads;
    for (int block = 0; block < blocks_; ++block)
      threads.emplace_back([this, block, &body] {
        wait_for_turn(block);
        body(block);
        note(block);
        done_[block] = true;
        go_on();
      });
    go_on();
    for (auto& thread : threads) thread.join();
  }

  // Lets other blocks run.
  void pause(int block) {
    if (++pauses_ > 100000) {
      std::fprintf(stderr, "a grid on the host: blocks wait for each other for ever\n");
      std::abort();
    }
    note(block);
    go_on();
    wait_for_turn(block);
  }
  bool by_chance() { return random_() % 16 == 0; }

  // What a block wrote is there for others, and what these have made so for the block.
  void fence(int block) {
    note(block);
    for (size_t k = 0; k < last_.size(); ++k)
      if (new_[block][k]) published_[k] = seen_[block][k];
    new_[block].assign(last_.size(), false);
    seen_[block] = published_;
  }

  // Where a block finds what lies at an address.
  const char* find(int block, const char* address) const {
    const auto* begin = reinterpret_cast<const char*>(maps_);
    const int64_t at = address - begin;
    if (!seen_late_ || at < 0 || at >= static_cast<int64_t>(last_.size()) * kUnit) return address;
    return reinterpret_cast<const char*>(seen_[block].data()) + at;
  }

 private:
  // Whatever has changed since the last note the block has written.
  void note(int block) {
    for (size_t k = 0; k < last_.size(); ++k) {
      if (std::memcmp(&last_[k], &maps_[k], kUnit) == 0) continue;
      last_[k] = seen_[block][k] = maps_[k];
      new_[block][k] = true;
    }
  }

  void go_on() {
    const std::lock_guard<std::mutex> lock(mutex_);
    const int left = static_cast<int>(std::count(done_.begin(), done_.end(), false));
    if (left == 0) return;
    int chosen = static_cast<int>(random_() % left);
    for (running_ = 0; done_[running_] || chosen-- > 0;) ++running_;
    turns_.notify_all();
  }
  void wait_for_turn(int block) {
    std::unique_lock<std::mutex> lock(mutex_);
    turns_.wait(lock, [&] { return running_ == block; });
  }

  int blocks_, running_ = -1, pauses_ = 0;
  std::minstd_rand random_;
  bool seen_late_;
  Unit* maps_;
  std::vector<Unit> last_, published_;   // all that was written; what all may see
  std::vector<std::vector<Unit>> seen_;  // by each block
  std::vector<std::vector<bool>> new_;   // what each block alone sees
  std::vector<bool> done_;
  std::mutex mutex_;
  std::condition_variable turns_;
};

// A thread, of either kind, of a block of such a grid.
template <class Thread>
struct GridThread : Thread {
  HostGrid* grid;
  int block;

  void sync() const {
    if (this->number == 0 && grid->by_chance()) grid->pause(block);
    Thread::sync();
  }
  void copy(int to, const char* from, bool is_there) const {
    Thread::copy(to, is_there ? grid->find(block, from) : from, is_there);
  }
  void fence() const { grid->fence(block); }
  void add_one(uint32_t* to) const { ++*to; }
  uint32_t read(const uint32_t* from) const {
    grid->pause(block);
    return *from;
  }
};

}  // namespace FRCN_ISA
