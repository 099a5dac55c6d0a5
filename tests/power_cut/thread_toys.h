// SPDX-License-Identifier: Apache-2.0
//
// Small layers for proving that the power-cut test kit finds what only several threads can bring about: each has one deliberate
// mistake that no single thread notices, or none if it is so told. Only what the proof needs.

#ifndef TESTS_POWER_CUT_THREAD_TOYS_H_
#define TESTS_POWER_CUT_THREAD_TOYS_H_

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "buse/device.h"

namespace buse::testing {

enum class BufferMistake {
  kNone,
  kFlushIsUnderWay,       // a Flush returns at once if another thread flushes: what it came for is perhaps not in that one
  kForgetsNewcomers,      // a Flush empties the buffer at its end, of what came meanwhile too
  kForgetsWhatIsWritten,  // a Flush takes blocks out of the buffer before they are written, and the next sees none
};

// A write-back buffer of blocks of 512 bytes. Writes are held until a Flush.
template <BufferMistake kMistake, Device B>
struct ToyBuffer {
  using Below = B;
  struct Config {
    typename Below::Config below;
  };
  struct Held {
    std::vector<std::byte> bytes;
    uint64_t version;
  };
  struct State {
    typename Below::State below;
    std::mutex mutex;  // guards those below
    std::condition_variable flushed;
    bool flushing = false;
    std::map<uint64_t, Held> held;
    uint64_t version = 0;
  };

  static constexpr uint64_t kBlockSize = 512;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;

  static absl::Status Open(const Config& config, State& self) { return Below::Open(config.below, self.below); }

  static uint64_t Size(const State& self) { return Below::Size(self.below); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    std::map<uint64_t, Held> held;
    {
      std::lock_guard lock(self.mutex);
      held = {self.held.lower_bound(offset), self.held.lower_bound(offset + out.size())};
    }
    absl::Status status = Below::Read(self.below, offset, out);
    for (const auto& [at, block] : held) std::memcpy(out.data() + (at - offset), block.bytes.data(), kBlockSize);
    return status;
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    std::lock_guard lock(self.mutex);
    for (uint64_t at = 0; at < in.size(); at += kBlockSize) {
      const ConstBytes block = in.subspan(at, kBlockSize);
      self.held[offset + at] = {{block.begin(), block.end()}, ++self.version};
    }
    return absl::OkStatus();
  }

  static absl::Status Flush(State& self) {
    std::unique_lock lock(self.mutex);
    if (kMistake == BufferMistake::kFlushIsUnderWay && self.flushing) return absl::OkStatus();
    if (kMistake != BufferMistake::kForgetsWhatIsWritten) self.flushed.wait(lock, [&] { return !self.flushing; });
    self.flushing = true;
    const std::map<uint64_t, Held> batch = self.held;
    if (kMistake == BufferMistake::kForgetsWhatIsWritten) self.held.clear();
    lock.unlock();
    absl::Status status;
    for (auto block = batch.begin(); block != batch.end() && status.ok(); ++block) {
      status = Below::Write(self.below, block->first, block->second.bytes);
    }
    if (status.ok()) status = Below::Flush(self.below);
    lock.lock();
    for (const auto& [at, block] : batch) {
      const auto held = self.held.find(at);
      if (held != self.held.end() && held->second.version == block.version) self.held.erase(held);
    }
    if (kMistake == BufferMistake::kForgetsNewcomers) self.held.clear();
    self.flushing = false;
    self.flushed.notify_all();
    return status;
  }
};

// Takes blocks of 512 bytes to a device of larger ones: reads one, changes a part, writes it back. The lock that this needs may
// be missing.
template <bool kLocks, Device B>
struct ToyMerge {
  using Below = B;
  struct Config {
    typename Below::Config below;
  };
  struct State {
    typename Below::State below;
    std::mutex mutex;
  };

  static constexpr uint64_t kBlockSize = 512;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;

  static absl::Status Open(const Config& config, State& self) { return Below::Open(config.below, self.below); }

  static uint64_t Size(const State& self) { return Below::Size(self.below); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    return ForEachPart(self, offset, out.size(), [&](Block& block, uint64_t in_block, uint64_t at, uint64_t length) {
      std::memcpy(out.data() + at, block.data() + in_block, length);
      return false;
    });
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    return ForEachPart(self, offset, in.size(), [&](Block& block, uint64_t in_block, uint64_t at, uint64_t length) {
      std::memcpy(block.data() + in_block, in.data() + at, length);
      return true;
    });
  }

  static absl::Status Flush(State& self) { return Below::Flush(self.below); }

 private:
  using Block = std::array<std::byte, Below::kBlockSize>;

  // `use` says whether it changed the block.
  template <class Use>
  static absl::Status ForEachPart(State& self, uint64_t offset, uint64_t size, Use use) {
    std::optional<std::lock_guard<std::mutex>> lock;
    if constexpr (kLocks) lock.emplace(self.mutex);
    for (uint64_t at = 0; at < size;) {
      const uint64_t in_block = (offset + at) % kBelow;
      const uint64_t length = std::min(kBelow - in_block, size - at);
      Block block;
      if (absl::Status status = Below::Read(self.below, offset + at - in_block, block); !status.ok()) return status;
      if (use(block, in_block, at, length)) {
        if (absl::Status status = Below::Write(self.below, offset + at - in_block, block); !status.ok()) return status;
      }
      at += length;
    }
    return absl::OkStatus();
  }
  static constexpr uint64_t kBelow = Below::kBlockSize;
};

// A read cache of one block of 512 bytes. Stale: what was read goes in although it was written meanwhile.
template <bool kStale, Device B>
struct ToyReadCache {
  using Below = B;
  struct Config {
    typename Below::Config below;
  };
  struct State {
    typename Below::State below;
    std::mutex mutex;  // guards those below
    std::optional<uint64_t> cached;
    std::array<std::byte, 512> block;
    uint64_t writes = 0;  // that began
    uint64_t ended = 0;   // of them
  };

  static constexpr uint64_t kBlockSize = 512;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;

  static absl::Status Open(const Config& config, State& self) { return Below::Open(config.below, self.below); }

  static uint64_t Size(const State& self) { return Below::Size(self.below); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    uint64_t ended;
    {
      std::lock_guard lock(self.mutex);
      ended = self.ended;
      if (self.cached == offset) {
        std::memcpy(out.data(), self.block.data(), kBlockSize);
        if (out.size() == kBlockSize) return absl::OkStatus();
        offset += kBlockSize;
        out = out.subspan(kBlockSize);
      }
    }
    absl::Status status = Below::Read(self.below, offset, out);
    std::lock_guard lock(self.mutex);
    if (status.ok() && (kStale || self.writes == ended)) {
      self.cached = offset;
      std::memcpy(self.block.data(), out.data(), kBlockSize);
    }
    return status;
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    Forget(self, self.writes);
    absl::Status status = Below::Write(self.below, offset, in);
    Forget(self, self.ended);
    return status;
  }

  static absl::Status Flush(State& self) { return Below::Flush(self.below); }

 private:
  static void Forget(State& self, uint64_t& count) {
    std::lock_guard lock(self.mutex);
    self.cached.reset();
    ++count;
  }
};

// Takes two locks, and keeps them across the calls below. Crosswise: Flush takes them in the other order.
template <bool kCrosswise, Device B>
struct ToyTwoLocks {
  using Below = B;
  struct Config {
    typename Below::Config below;
  };
  struct State {
    typename Below::State below;
    std::mutex first;
    std::mutex second;
  };

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;

  static absl::Status Open(const Config& config, State& self) { return Below::Open(config.below, self.below); }

  static uint64_t Size(const State& self) { return Below::Size(self.below); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) { return Below::Read(self.below, offset, out); }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    std::lock_guard first(self.first);
    absl::Status status = Below::Write(self.below, offset, in);
    std::lock_guard second(self.second);
    return status;
  }

  static absl::Status Flush(State& self) {
    std::lock_guard first(kCrosswise ? self.second : self.first);
    absl::Status status = Below::Flush(self.below);
    std::lock_guard second(kCrosswise ? self.first : self.second);
    return status;
  }
};

// Says that it takes any calls, and hands them on to a device that does not.
template <Device B>
struct ToyBoaster {
  using Below = B;
  struct Config {
    typename Below::Config below;
  };
  struct State {
    typename Below::State below;
  };

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Concurrency::kParallel;

  static absl::Status Open(const Config& config, State& self) { return Below::Open(config.below, self.below); }
  static uint64_t Size(const State& self) { return Below::Size(self.below); }
  static absl::Status Read(State& self, uint64_t offset, Bytes out) { return Below::Read(self.below, offset, out); }
  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) { return Below::Write(self.below, offset, in); }
  static absl::Status Flush(State& self) { return Below::Flush(self.below); }
};

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_THREAD_TOYS_H_
