// Blocks of a GPU on the host that wait for each other: each is an operating system's thread with fibers of its own,
// one runs at a time, and which one goes on is drawn by chance.
//
// What blocks write to maps that any of them reads is seen by others as late as it may be, after fences of the writer
// and of the reader, or at once.
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
#include <utility>
#include <vector>

#include "block.h"

namespace FRCN_ISA {

class HostGrid {
  static constexpr int64_t kUnit = 16;  // bytes, which one thread writes
  using Unit = Pack<uint64_t, 2>;

 public:
  // From the first byte to behind the last one.
  using Range = std::pair<char*, char*>;

  // `maps`: their memory.
  HostGrid(int blocks, unsigned seed, Copies seen, std::vector<Range> maps)
      : blocks_(blocks), random_(seed), seen_late_(seen == Copies::late) {
    std::sort(maps.begin(), maps.end());
    for (const auto& [begin, end] : maps) {
      if (maps_.empty() || begin > maps_.back().second) maps_.emplace_back(begin, begin);
      maps_.back().second = std::max(maps_.back().second, end);
    }
    for (const auto& [begin, end] : maps_) {
      firsts_.push_back(last_.size());
      last_.insert(last_.end(), reinterpret_cast<Unit*>(begin), reinterpret_cast<Unit*>(end));
    }
    published_ = last_;
    seen_.assign(blocks, last_);
    new_.resize(blocks);
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
    for (const size_t k : new_[block]) published_[k] = seen_[block][k];
    new_[block].clear();
    seen_[block] = published_;
  }

  // Where a block finds what lies at an address.
  const char* find(int block, const char* address) const {
    for (size_t n = 0; seen_late_ && n < maps_.size(); ++n)
      if (address >= maps_[n].first && address < maps_[n].second)
        return reinterpret_cast<const char*>(seen_[block].data() + firsts_[n]) + (address - maps_[n].first);
    return address;
  }

 private:
  // Whatever has changed since the last note the block has written.
  void note(int block) {
    for (size_t n = 0; n < maps_.size(); ++n) {
      const auto* now = reinterpret_cast<const Unit*>(maps_[n].first);
      note(block, firsts_[n], now, reinterpret_cast<const Unit*>(maps_[n].second) - now);
    }
  }
  void note(int block, size_t first, const Unit* now, size_t count) {
    if (std::memcmp(&last_[first], now, count * sizeof *now) == 0) return;
    if (count > 1) {
      note(block, first, now, count / 2);
      note(block, first + count / 2, now + count / 2, count - count / 2);
    } else {
      last_[first] = seen_[block][first] = *now;
      new_[block].push_back(first);
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
  std::vector<Range> maps_;
  std::vector<size_t> firsts_;            // their places in what follows
  std::vector<Unit> last_, published_;    // all that was written; what all may see
  std::vector<std::vector<Unit>> seen_;   // by each block
  std::vector<std::vector<size_t>> new_;  // what each block alone sees
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
  template <int V, class T>
  Pack<T, V> load_pack(const T* source) const {
    return load_own_pack<V>(reinterpret_cast<const T*>(grid->find(block, reinterpret_cast<const char*>(source))));
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
