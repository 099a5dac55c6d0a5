// SPDX-License-Identifier: Apache-2.0
//
// The descriptors of a BLOCK_STATUS reply in one metadata context. Source: doc/proto.md of the NBD project, sections
// "base:allocation metadata context", NBD_REPLY_TYPE_BLOCK_STATUS and NBD_REPLY_TYPE_BLOCK_STATUS_EXT; of buse:cache,
// docs/nbd-conformance.md.

#ifndef BUSE_BLOCK_STATUS_H_
#define BUSE_BLOCK_STATUS_H_

#include <cstddef>
#include <cstdint>

#include "buse/device.h"
#include "buse/nbd.h"

namespace buse {

class BlockStatus {
 public:
  // Bytes that one reply fills at most, however many extents there are: the client asks again.
  static constexpr size_t kMaxBytes = 64 << 10;

  // Fills `room`, of at least 16 bytes. `wide`: in the form of extended headers, else no extent is longer than 4 GiB - 1.
  // `one`: the first extent alone.
  BlockStatus(Bytes room, bool wide, bool one) : room_(room), size_(wide ? 16 : 8), one_(one) {}

  // False when no more fits.
  bool Add(const Extent& extent) { return Add(extent.range.length, FlagsOf(extent.kind)); }
  bool Add(const Resident& resident) {
    return Add(resident.range.length, (resident.cached ? nbd::kStateCached : 0) | (resident.dirty ? nbd::kStateDirty : 0));
  }

  ConstBytes bytes() const { return room_.first(used_); }

 private:
  bool Add(uint64_t length, uint32_t flags) {
    std::byte* to = room_.data() + used_;
    if (size_ == 16) {
      nbd::Store<uint64_t>(to, length);
      nbd::Store<uint64_t>(to + 8, flags);
    } else {
      nbd::Store<uint32_t>(to, static_cast<uint32_t>(length));
      nbd::Store<uint32_t>(to + 4, flags);
    }
    used_ += size_;
    return !one_ && room_.size() - used_ >= size_;
  }

  static uint32_t FlagsOf(Extent::Kind kind) {
    switch (kind) {
      case Extent::Kind::kData:
        return 0;
      case Extent::Kind::kZero:
        return nbd::kStateZero;
      case Extent::Kind::kHole:
        return nbd::kStateHole | nbd::kStateZero;
    }
    return 0;
  }

  const Bytes room_;
  const size_t size_;  // of a descriptor
  const bool one_;
  size_t used_ = 0;
};

}  // namespace buse

#endif  // BUSE_BLOCK_STATUS_H_
