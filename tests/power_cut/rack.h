// SPDX-License-Identifier: Apache-2.0
//
// Rack: the disks that a stack stands on, with volatile caches and one power supply. What their platters hold stays when the
// power goes and the stack is opened again.

#ifndef TESTS_POWER_CUT_RACK_H_
#define TESTS_POWER_CUT_RACK_H_

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/device.h"
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

// A disk whose power can be cut: of any alignment like FileBacked, or of blocks like DirectFileBacked (4096).
template <uint64_t kBlock = 1, bool kShortcuts = true>
using CutDisk = PowerCut<Platter<kBlock, kShortcuts>>;

class Rack {
 public:
  struct Slot {
    std::vector<std::byte> platter;
    VolatileCache held;
    uint64_t sector = 512;
  };
  using Platters = std::vector<std::vector<std::byte>>;

  Rack() = default;
  Rack(const Rack&) = delete;
  Rack& operator=(const Rack&) = delete;

  // The next disk, in the order in which the stack's configuration asks for them: of the same size each time.
  template <class D = CutDisk<>>
  typename D::Config Disk(uint64_t size, uint64_t sector = 512) {
    if (next_ == slots_.size()) {
      slots_.push_back(std::make_unique<Slot>());
      slots_.back()->platter.resize(size);
      slots_.back()->sector = sector;
    }
    Slot& slot = *slots_[next_++];
    assert(slot.platter.size() == size && "the disks must be the same whenever the stack is opened");
    return {.sector = sector, .power = &power_, .held = &slot.held, .below = {.bytes = &slot.platter}};
  }

  // Before the stack is configured and opened.
  void PowerOn(uint64_t cut_at = UINT64_MAX) {
    power_ = {.cut_at = cut_at};
    next_ = 0;
  }

  // A clean end: everything held reaches the platters.
  void Settle() {
    for (auto& slot : slots_) {
      slot->held.Overlay(0, slot->platter);
      slot->held.Clear();
    }
  }

  Platters Save() const {
    Platters platters;
    for (const auto& slot : slots_) platters.push_back(slot->platter);
    return platters;
  }

  void Restore(const Platters& platters) {
    for (size_t i = 0; i < platters.size(); ++i) slots_[i]->platter = platters[i];
  }

  Power& power() { return power_; }
  size_t size() const { return slots_.size(); }
  Slot& slot(size_t i) { return *slots_[i]; }

 private:
  Power power_;
  std::vector<std::unique_ptr<Slot>> slots_;
  size_t next_ = 0;
};

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_RACK_H_
