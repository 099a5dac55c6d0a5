// SPDX-License-Identifier: Apache-2.0
//
// MirrorLegs: what is known of the legs of a mirror while it is open, and which of them a read takes. Thread-safe. Does no I/O.

#ifndef LAYERS_MIRROR_LEGS_H_
#define LAYERS_MIRROR_LEGS_H_

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "buse/device.h"
#include "layers/defect.h"
#include "layers/leg_mask.h"
#include "layers/legs_status.h"
#include "layers/mirror_format.h"

namespace buse {

// Legs as bits of a number.
class MirrorLegs {
 public:
  using State = LegState;

  // One read under way on the leg that is best for it: the one that the read continues a stream on, else the one with the
  // fewest reads under way, among these the one that read nearest to here.
  class Reading {
   public:
    Reading(MirrorLegs& legs, Range range) : legs_(legs), leg_(legs.Choose(range.offset)) {
      legs_.slots_[leg_].reading.fetch_add(1, std::memory_order_relaxed);
      legs_.slots_[leg_].next.store(range.end(), std::memory_order_relaxed);
    }
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;
    ~Reading() { legs_.slots_[leg_].reading.fetch_sub(1, std::memory_order_relaxed); }

    size_t leg() const { return leg_; }

   private:
    MirrorLegs& legs_;
    const size_t leg_;
  };

  // At least one leg is in sync.
  void Open(LegMask in_sync, LegMask rebuilding) {
    in_sync_ = in_sync;
    active_ = in_sync | rebuilding;
  }

  LegMask InSync() const { return in_sync_; }
  // Those that get every change.
  LegMask Active() const { return active_; }
  LegMask Rebuilding() const { return active_ & ~in_sync_; }

  // These are not used any more. One leg stays in sync.
  void Fail(LegMask legs) {
    in_sync_ &= ~legs;
    active_ &= ~legs;
  }
  void Join(size_t leg) { in_sync_ |= Leg(leg); }
  // Another medium takes the place of one that failed.
  void Replace(size_t leg) {
    slots_[leg].errors = 0;
    active_ |= Leg(leg);
  }

  State state(size_t leg) const {
    return Has(in_sync_, leg) ? State::kInSync : Has(active_, leg) ? State::kRebuilding : State::kFailed;
  }

  void CountErrors(LegMask legs) {
    ForEachLeg(legs, [this](size_t leg) { slots_[leg].errors.fetch_add(1, std::memory_order_relaxed); });
  }
  uint64_t errors(size_t leg) const { return slots_[leg].errors; }

 private:
  struct alignas(64) Slot {
    std::atomic<uint32_t> reading = 0;
    std::atomic<uint64_t> next = 0;  // where the last read ended
    std::atomic<uint64_t> errors = 0;
  };

  size_t Choose(uint64_t offset) const {
    const LegMask readable = BUSE_DEFECT("mirror-reads-stale-leg") ? active_ : in_sync_;
    size_t best = 0;
    uint64_t best_reading = UINT64_MAX;
    uint64_t best_distance = UINT64_MAX;
    for (LegMask rest = readable; rest != 0; rest &= rest - 1) {
      const size_t leg = static_cast<size_t>(std::countr_zero(rest));
      const uint64_t next = slots_[leg].next.load(std::memory_order_relaxed);
      if (next == offset && offset != 0) return leg;
      const uint64_t reading = slots_[leg].reading.load(std::memory_order_relaxed);
      const uint64_t distance = next < offset ? offset - next : next - offset;
      if (reading > best_reading || (reading == best_reading && distance >= best_distance)) continue;
      best = leg;
      best_reading = reading;
      best_distance = distance;
    }
    return best;
  }

  std::atomic<LegMask> in_sync_ = 0;
  std::atomic<LegMask> active_ = 0;
  std::array<Slot, MirrorHead::kMostLegs> slots_;
};

}  // namespace buse

#endif  // LAYERS_MIRROR_LEGS_H_
