// SPDX-License-Identifier: Apache-2.0
//
// CoarseResidency: what a device keeps in memory, as it is told to a client: by units of the announced block, alike
// neighbours as one.

#ifndef BUSE_COARSE_RESIDENCY_H_
#define BUSE_COARSE_RESIDENCY_H_

#include <algorithm>
#include <cstdint>

#include "buse/device.h"

namespace buse {

// Takes residents in order, from the beginning of the range without gaps. A unit of which a part is not cached is not
// cached, and one of which a part is dirty is dirty.
class CoarseResidency {
 public:
  // `unit` is a power of two, of which the range begins and ends at multiples. `emit` outlives this.
  CoarseResidency(Range range, uint64_t unit, EmitResident emit)
      : range_(range), mask_(unit - 1), end_(range.offset), out_{{range.offset, 0}}, emit_(emit) {}

  // False when no more is wanted: the range is covered, or `emit` has enough.
  bool Add(const Resident& next) {
    uint64_t from = next.range.offset;
    end_ = next.range.end();
    if (in_unit(from)) {
      unit_ = {.cached = unit_.cached && next.cached, .dirty = unit_.dirty || next.dirty};
      const uint64_t border = (from | mask_) + 1;
      if (border <= end_) Append(border, unit_);
      from = std::min(border, end_);
    }
    if (from < (end_ & ~mask_)) {
      Append(end_ & ~mask_, next);
      from = end_ & ~mask_;
    }
    if (from < end_ && !in_unit(from)) unit_ = next;
    return WantsMore();
  }

  bool WantsMore() const { return !stopped_ && end_ < range_.end(); }

  // What was added ends within a unit, which is told only when it is complete.
  bool in_unit() const { return in_unit(end_); }

  // What Add has not seen.
  Range rest() const { return {end_, range_.end() - end_}; }

  // Hands on what is left, but for a unit that is not complete.
  void Finish() {
    if (out_.range.length > 0 && !stopped_) stopped_ = !emit_(out_);
    out_.range = {out_.range.end(), 0};
  }

 private:
  bool in_unit(uint64_t at) const { return (at & mask_) != 0; }

  // From the end of what was appended to `end`.
  void Append(uint64_t end, const Resident& like) {
    if (!out_.AlikeIn(like)) Finish();
    out_ = {{out_.range.offset, end - out_.range.offset}, like.cached, like.dirty};
  }

  const Range range_;
  const uint64_t mask_;
  uint64_t end_;   // of what was added
  Resident unit_;  // of the unit in which that ends, so far
  Resident out_;   // whole units, not yet handed on
  EmitResident emit_;
  bool stopped_ = false;
};

}  // namespace buse

#endif  // BUSE_COARSE_RESIDENCY_H_
