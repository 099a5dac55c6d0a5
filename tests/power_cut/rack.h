// SPDX-License-Identifier: Apache-2.0
//
// Rack: the disks that a stack stands on, with volatile caches and one power supply. What their platters hold stays when the
// power goes and the stack is opened again.

#ifndef TESTS_POWER_CUT_RACK_H_
#define TESTS_POWER_CUT_RACK_H_

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "layers/power_cut.h"
#include "layers/volatile_cache.h"
#include "tests/power_cut/cut_disk.h"

namespace buse::testing {

class Rack {
 public:
  struct Slot {
    std::vector<std::byte> platter;
    VolatileCache held;
    uint64_t sector = 512;
  };
  using Platters = std::vector<std::vector<std::byte>>;
  // Of one moment: also what the caches hold.
  struct Contents {
    Platters platters;
    std::vector<VolatileCache> held;
  };

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
    const size_t number = next_++;
    Slot& slot = *slots_[number];
    assert(slot.platter.size() == size && "the disks must be the same whenever the stack is opened");
    return {.number = number,
            .supply = &supply_,
            .cache = {.sector = sector, .power = &supply_.power, .held = &slot.held, .below = {.bytes = &slot.platter}}};
  }

  // Before the stack is configured and opened.
  void PowerOn(uint64_t cut_at = UINT64_MAX) {
    supply_.power = {.cut_at = cut_at};
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

  Contents SaveAll() const {
    Contents contents = {Save(), {}};
    for (const auto& slot : slots_) contents.held.push_back(slot->held);
    return contents;
  }

  void RestoreAll(const Contents& contents) {
    Restore(contents.platters);
    for (size_t i = 0; i < contents.held.size(); ++i) slots_[i]->held = contents.held[i];
  }

  PowerSupply& supply() { return supply_; }
  Power& power() { return supply_.power; }
  size_t size() const { return slots_.size(); }
  const Slot& slot(size_t i) const { return *slots_[i]; }
  Slot& slot(size_t i) { return *slots_[i]; }

 private:
  PowerSupply supply_;
  std::vector<std::unique_ptr<Slot>> slots_;
  size_t next_ = 0;
};

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_RACK_H_
