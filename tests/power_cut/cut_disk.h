// SPDX-License-Identifier: Apache-2.0
//
// CutDisk: the leaf of a stack whose power is cut. A disk with a volatile cache, PowerCut over bytes that belong to a test.
//
// It takes what calls its type says may run together, and does one at a time. A watcher is told when a call arrives, when the
// disk changed, and when the call leaves: it may hold the call up before and after, and then others overtake it. While a change
// is on its way, reads of the same bytes return rubbish, which is what the contract permits; of overlapping changes the later
// one wins.

#ifndef TESTS_POWER_CUT_CUT_DISK_H_
#define TESTS_POWER_CUT_CUT_DISK_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <list>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "buse/description.h"
#include "buse/device.h"
#include "layers/operation.h"
#include "layers/power_cut.h"
#include "layers/volatile_cache.h"

namespace buse::testing {

// The medium: a leaf over bytes that belong to a test. Without kShortcuts it has only Write and Flush.
template <uint64_t kBlock, bool kShortcuts>
struct Platter {
  struct Config {
    std::vector<std::byte>* bytes = nullptr;
  };
  struct State {
    std::vector<std::byte>* bytes = nullptr;
  };

  static constexpr uint64_t kBlockSize = kBlock;
  static constexpr Concurrency kConcurrency = Concurrency::kParallel;

  static constexpr Description<Config> Describe() { return {"platter", "keeps bytes for a test", Family::kLeaf}; }

  static absl::Status Open(const Config& config, State& self) {
    self.bytes = config.bytes;
    return absl::OkStatus();
  }

  static uint64_t Size(const State& self) { return self.bytes->size(); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    std::memcpy(out.data(), self.bytes->data() + offset, out.size());
    return absl::OkStatus();
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    std::memcpy(self.bytes->data() + offset, in.data(), in.size());
    return absl::OkStatus();
  }

  static absl::Status Flush(State&) { return absl::OkStatus(); }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires kShortcuts {
    return Write(self, offset, in);
  }

  static absl::Status Trim(State& self, Range range) requires kShortcuts { return Zero(self, range); }

  static absl::Status WriteZeroes(State& self, Range range) requires kShortcuts { return Zero(self, range); }

 private:
  static absl::Status Zero(State& self, Range range) {
    std::memset(self.bytes->data() + range.offset, 0, range.length);
    return absl::OkStatus();
  }
};

// A call that reached a disk.
struct DiskCall {
  size_t disk;  // its number in the rack
  Operation operation;
  Range range;

  bool IsChange() const { return operation != Operation::kRead; }
};

inline std::string ToString(const DiskCall& call) {
  std::string text = absl::StrCat("disk ", call.disk, ": ", ToString(call.operation));
  if (call.range.length > 0) absl::StrAppend(&text, " ", call.range.offset, "+", call.range.length);
  return text;
}

class DiskWatcher {
 public:
  virtual ~DiskWatcher() = default;
  virtual void Arrives(const DiskCall& call) = 0;
  // With the disk's mutex held. If it was a change, the disks are now as they may be found after a power cut.
  virtual void Did(const DiskCall& call, bool rubbish) = 0;
  virtual void Leaves(const DiskCall& call) = 0;
  // Two calls met that the disk does not bear together.
  virtual void Collided(const DiskCall& first, const DiskCall& second) = 0;
};

// What disks share.
struct PowerSupply {
  Power power;
  std::mutex mutex;                // held while a disk works
  DiskWatcher* watcher = nullptr;  // set while no call runs; absent: nobody watches
};

// A disk of any alignment like FileBacked, or of blocks like DirectFileBacked (4096).
template <uint64_t kBlock = 1, bool kShortcuts = true, Concurrency kRunsTogether = Concurrency::kParallel>
struct CutDisk {
  using Cache = PowerCut<Platter<kBlock, kShortcuts>>;

  struct Config {
    size_t number = 0;
    PowerSupply* supply = nullptr;
    typename Cache::Config cache;
  };

  struct State {
    typename Cache::State cache;
    size_t number = 0;
    PowerSupply* supply = nullptr;
    std::list<DiskCall> present;  // guarded by the supply's mutex
  };

  static constexpr uint64_t kBlockSize = kBlock;
  static constexpr Concurrency kConcurrency = kRunsTogether;

  static constexpr Description<Config> Describe() {
    return {"cut-disk", "a disk whose power can be cut, for tests", Family::kLeaf};
  }

  static absl::Status Open(const Config& config, State& self) {
    self.number = config.number;
    self.supply = config.supply;
    return Cache::Open(config.cache, self.cache);
  }

  static uint64_t Size(const State& self) { return Cache::Size(self.cache); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    bool rubbish = false;
    const auto read = [&] {
      absl::Status status = Cache::Read(self.cache, offset, out);
      for (const DiskCall& call : self.present) {
        const uint64_t begin = std::max(call.range.offset, offset);
        const uint64_t end = std::min(call.range.end(), offset + out.size());
        if (!call.IsChange() || begin >= end) continue;
        std::memset(out.data() + (begin - offset), 0xdb, end - begin);
        rubbish = true;
      }
      return status;
    };
    return Do(self, Operation::kRead, {offset, out.size()}, read, &rubbish);
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    return Do(self, Operation::kWrite, {offset, in.size()}, [&] { return Cache::Write(self.cache, offset, in); });
  }

  static absl::Status Flush(State& self) {
    return Do(self, Operation::kFlush, {}, [&] { return Cache::Flush(self.cache); });
  }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires kShortcuts {
    const Range range = {offset, in.size()};
    return Do(self, Operation::kWriteThrough, range, [&] {
      if (DiskWatcher* const watcher = self.supply->watcher; watcher != nullptr) {
        // It may be torn before it is durable.
        VolatileCache before = *self.cache.held;
        self.cache.held->Add(VolatileCache::Kind::kData, range, in);
        watcher->Did({self.number, Operation::kWriteThrough, range}, false);
        *self.cache.held = std::move(before);
      }
      return Cache::WriteThrough(self.cache, offset, in);
    });
  }

  static absl::Status Trim(State& self, Range range) requires kShortcuts {
    return Do(self, Operation::kTrim, range, [&] { return Cache::Trim(self.cache, range); });
  }

  static absl::Status WriteZeroes(State& self, Range range) requires kShortcuts {
    return Do(self, Operation::kWriteZeroes, range, [&] { return Cache::WriteZeroes(self.cache, range); });
  }

 private:
  static bool MayRunTogether(const DiskCall& a, const DiskCall& b) {
    if (kConcurrency == Concurrency::kSerial) return false;
    return kConcurrency == Concurrency::kParallel || a.range.offset >= b.range.end() || b.range.offset >= a.range.end();
  }

  template <class Effect>
  static absl::Status Do(State& self, Operation operation, Range range, Effect effect, const bool* rubbish = nullptr) {
    std::unique_lock lock(self.supply->mutex);
    DiskWatcher* const watcher = self.supply->watcher;
    if (watcher == nullptr) return effect();
    const DiskCall call = {self.number, operation, range};
    for (const DiskCall& other : self.present) {
      if (!MayRunTogether(call, other)) watcher->Collided(other, call);
    }
    const auto place = self.present.insert(self.present.end(), call);
    lock.unlock();
    watcher->Arrives(call);
    lock.lock();
    absl::Status status = effect();
    watcher->Did(call, rubbish != nullptr && *rubbish);
    lock.unlock();
    watcher->Leaves(call);
    lock.lock();
    self.present.erase(place);
    return status;
  }
};

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_CUT_DISK_H_
