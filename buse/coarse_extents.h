// SPDX-License-Identifier: Apache-2.0
//
// CoarseExtents: extents as they are worth telling a client. Alike neighbours become one, and what is no data begins and ends
// at multiples of a granularity, or at the ends of the range that was asked about.

#ifndef BUSE_COARSE_EXTENTS_H_
#define BUSE_COARSE_EXTENTS_H_

#include <cstdint>

#include "buse/device.h"

namespace buse {

// Takes extents in order, from the beginning of the range without gaps, and hands on coarser ones. Calling bytes data is always
// true, so that is what becomes of what does not fit the granularity.
class CoarseExtents {
 public:
  // `granularity` is a power of two. `emit` outlives this.
  CoarseExtents(Range range, uint64_t granularity, EmitExtent emit) : range_(range), mask_(granularity - 1), emit_(emit) {
    merged_.range = out_.range = {range.offset, 0};
  }

  // False when no more is wanted: the range is covered, `emit` has enough, or this took too long.
  bool Add(const Extent& extent) {
    if (extent.kind != merged_.kind || merged_.range.length == 0) {
      Round();
      merged_ = extent;
    } else {
      merged_.range.length += extent.range.length;
    }
    ++taken_;
    return WantsMore();
  }

  bool WantsMore() const { return taken_ < kMaxTaken && !stopped_ && merged_.range.end() < range_.end(); }

  // What Add has not seen.
  Range rest() const { return {merged_.range.end(), range_.end() - merged_.range.end()}; }

  // Hands on what is left.
  void Finish() {
    Round();
    Emit();
  }

 private:
  // A server that looks at more extents than this for one answer keeps others waiting.
  static constexpr int kMaxTaken = 1 << 16;

  // merged_ is complete: fits it to the granularity.
  void Round() {
    const uint64_t end = merged_.range.end();
    if (merged_.kind != Extent::Kind::kData) {
      uint64_t from = merged_.range.offset, to = end;
      if (from != range_.offset) from += -from & mask_;
      if (to != range_.end()) to &= ~mask_;
      if (from < to) {
        Append(Extent::Kind::kData, from);
        Append(merged_.kind, to);
      }
    }
    Append(Extent::Kind::kData, end);
  }

  // From the end of what was appended to `end`.
  void Append(Extent::Kind kind, uint64_t end) {
    if (end <= out_.range.end()) return;
    if (kind != out_.kind) {
      const uint64_t from = out_.range.end();
      Emit();
      out_ = {{from, 0}, kind};
    }
    out_.range.length = end - out_.range.offset;
  }

  void Emit() {
    if (out_.range.length > 0 && !stopped_) stopped_ = !emit_(out_);
  }

  const Range range_;
  const uint64_t mask_;
  EmitExtent emit_;
  Extent merged_;  // of what was added, the last that may still grow
  Extent out_;     // of what is handed on, the same
  int taken_ = 0;
  bool stopped_ = false;
};

}  // namespace buse

#endif  // BUSE_COARSE_EXTENTS_H_
