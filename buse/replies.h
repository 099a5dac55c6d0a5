// SPDX-License-Identifier: Apache-2.0
//
// Replies: the answers of one batch, on their way to one send. Source: doc/proto.md of the NBD project, sections "Simple reply
// message", "Structured reply chunk message", "Extended reply chunk message" and "Structured reply types".

#ifndef BUSE_REPLIES_H_
#define BUSE_REPLIES_H_

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "absl/strings/string_view.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "buse/nbd.h"
#include "buse/request.h"

namespace buse {

// Headers are its own; what they announce is borrowed, see Gather. Allocates nothing; about 50 KiB in size. A client that
// agreed on chunks gets its READs answered by Data and Hole, of which the last one ends the reply, and errors by Error.
class Replies {
 public:
  // Of an error's sentence; the rest of a longer one is cut off.
  static constexpr size_t kMaxMessage = 256;
  // Chunks of one reply that need no Full between them.
  static constexpr size_t kMaxChunks = 32;

  struct Mark {
    Gather::Mark gather;
    size_t used;
  };

  // What was agreed on, before the first reply. Simple replies unless called.
  void Speak(nbd::Terms::Replies style) { extended_ = style == nbd::Terms::Replies::kExtended; }

  Gather& gather() { return gather_; }
  bool empty() const { return gather_.empty(); }
  // Send, then Clear, before the next request.
  bool Full() const { return used_ > kHeaders - kLargest || gather_.room() < 2 || gather_.bytes() >= kBatchBytes; }
  void Clear() {
    gather_.Release();
    used_ = 0;
  }

  Mark mark() const { return {gather_.mark(), used_}; }
  void Rewind(const Mark& mark) {
    gather_.Rewind(mark.gather);
    used_ = mark.used;
  }

  void Simple(uint64_t cookie, uint32_t error) {
    std::byte* header = Take(nbd::kSimpleReplySize);
    nbd::Store<uint32_t>(header, nbd::kSimpleReplyMagic);
    nbd::Store<uint32_t>(header + 4, error);
    nbd::Store<uint64_t>(header + 8, cookie);
  }

  // Success of what is no READ.
  void Done(const nbd::Request& request) {
    if (extended_) {
      Chunk(request, nbd::kReplyFlagDone, nbd::kReplyTypeNone, 0, 0);
    } else {
      Simple(request.cookie, nbd::kOk);
    }
  }

  // A READ of no bytes.
  void Nothing(const nbd::Request& request) { Chunk(request, nbd::kReplyFlagDone, nbd::kReplyTypeNone, 0, 0); }

  // The bytes of `range` follow, appended to the gather by the caller.
  void Data(const nbd::Request& request, Range range, bool last) {
    std::byte* payload = Chunk(request, last ? nbd::kReplyFlagDone : 0, nbd::kReplyTypeOffsetData, 8, range.length);
    nbd::Store<uint64_t>(payload, range.offset);
  }

  // The range reads as zeroes. It is shorter than 4 GiB.
  void Hole(const nbd::Request& request, Range range, bool last) {
    std::byte* payload = Chunk(request, last ? nbd::kReplyFlagDone : 0, nbd::kReplyTypeOffsetHole, 12, 0);
    nbd::Store<uint64_t>(payload, range.offset);
    nbd::Store<uint32_t>(payload + 8, static_cast<uint32_t>(range.length));
  }

  // Descriptors of a metadata context, which stay valid until Clear.
  void BlockStatus(const nbd::Request& request, uint32_t context, ConstBytes descriptors, bool last) {
    const uint16_t type = extended_ ? nbd::kReplyTypeBlockStatusExt : nbd::kReplyTypeBlockStatus;
    std::byte* payload = Chunk(request, last ? nbd::kReplyFlagDone : 0, type, extended_ ? 8 : 4, descriptors.size());
    nbd::Store<uint32_t>(payload, context);
    if (extended_) nbd::Store<uint32_t>(payload + 4, static_cast<uint32_t>(descriptors.size() / 16));
    gather_.Append(descriptors);
  }

  // Ends a reply of chunks by an error, which concerns `at` where that is known.
  void Error(const nbd::Request& request, uint32_t error, absl::string_view why, std::optional<uint64_t> at = {});

 private:
  // Of all headers and messages.
  static constexpr size_t kHeaders = 16 << 10;
  // What one request may take of it.
  static constexpr size_t kLargest = 2048;
  static_assert(kLargest >= kMaxChunks * (nbd::kExtendedReplySize + 12) + nbd::kExtendedReplySize + 14 + kMaxMessage);
  // A batch is sent when it holds this many bytes, so that the client has work while we go on.
  static constexpr size_t kBatchBytes = 1 << 20;

  std::byte* Take(size_t size) {
    assert(size <= kHeaders - used_ && "one request's replies took more than was kept for them");
    std::byte* taken = headers_.data() + used_;
    used_ += size;
    gather_.Append({taken, size});
    return taken;
  }

  // A chunk's header and room for `own` bytes of its payload; `borrowed` bytes more are appended later.
  std::byte* Chunk(const nbd::Request& request, uint16_t flags, uint16_t type, size_t own, uint64_t borrowed) {
    const size_t size = extended_ ? nbd::kExtendedReplySize : nbd::kStructuredReplySize;
    std::byte* header = Take(size + own);
    nbd::Store<uint16_t>(header + 4, flags);
    nbd::Store<uint16_t>(header + 6, type);
    nbd::Store<uint64_t>(header + 8, request.cookie);
    if (extended_) {
      nbd::Store<uint32_t>(header, nbd::kExtendedReplyMagic);
      nbd::Store<uint64_t>(header + 16, request.offset);
      nbd::Store<uint64_t>(header + 24, own + borrowed);
    } else {
      nbd::Store<uint32_t>(header, nbd::kStructuredReplyMagic);
      nbd::Store<uint32_t>(header + 16, static_cast<uint32_t>(own + borrowed));
    }
    return header + size;
  }

  bool extended_ = false;
  size_t used_ = 0;
  std::array<std::byte, kHeaders> headers_;
  Gather gather_;
};

inline void Replies::Error(const nbd::Request& request, uint32_t error, absl::string_view why, std::optional<uint64_t> at) {
  size_t length = std::min(why.size(), kMaxMessage);
  // Not within a character of UTF-8.
  while (length < why.size() && length > 0 && (why[length] & 0xc0) == 0x80) --length;
  const uint16_t type = at ? nbd::kReplyTypeErrorOffset : nbd::kReplyTypeError;
  std::byte* payload = Chunk(request, nbd::kReplyFlagDone, type, 6 + length + (at ? 8 : 0), 0);
  nbd::Store<uint32_t>(payload, error);
  nbd::Store<uint16_t>(payload + 4, static_cast<uint16_t>(length));
  std::memcpy(payload + 6, why.data(), length);
  if (at) nbd::Store<uint64_t>(payload + 6 + length, *at);
}

}  // namespace buse

#endif  // BUSE_REPLIES_H_
