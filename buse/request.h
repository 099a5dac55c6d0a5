// SPDX-License-Identifier: Apache-2.0
//
// A request as it came from the client, and the error it earns before it reaches the device. Source: doc/proto.md of the NBD
// project, sections "Request message", "Command flags" and "Request types".

#ifndef BUSE_REQUEST_H_
#define BUSE_REQUEST_H_

#include <cstddef>
#include <cstdint>

#include "buse/device.h"
#include "buse/nbd.h"

namespace buse::nbd {

struct Request {
  uint32_t magic = 0;
  uint16_t flags = 0;
  uint16_t type = 0;
  uint64_t cookie = 0;
  uint64_t offset = 0;
  uint64_t length = 0;

  Range range() const { return {offset, length}; }
  bool has(CommandFlag flag) const { return (flags & flag) != 0; }

  // Of kRequestSize bytes.
  static Request Parse(const std::byte* wire) {
    Request request = ParseStart(wire);
    request.length = Load<uint32_t>(wire + 24);
    return request;
  }
  // Of kExtendedRequestSize bytes.
  static Request ParseExtended(const std::byte* wire) {
    Request request = ParseStart(wire);
    request.length = Load<uint64_t>(wire + 24);
    return request;
  }

 private:
  static Request ParseStart(const std::byte* wire) {
    return {.magic = Load<uint32_t>(wire),
            .flags = Load<uint16_t>(wire + 4),
            .type = Load<uint16_t>(wire + 6),
            .cookie = Load<uint64_t>(wire + 8),
            .offset = Load<uint64_t>(wire + 16)};
  }
};

// The error of a request, and a sentence for a person.
struct Verdict {
  Error error = kOk;
  const char* why = "";
};

// A request whose offset is a size. Not inlined: it is rare.
[[gnu::noinline, gnu::cold]] inline Verdict CheckResize(const Request& request, const Export& exported, const Terms& terms) {
  if ((terms.flags & kFlagSendResize) == 0) return {kEperm, "clients may not change the size of this device"};
  const uint16_t allowed = (terms.flags & kFlagSendFua) != 0 ? kCmdFlagFua : 0;
  if ((request.flags & ~allowed) != 0) return {kEinval, "a flag that was not offered for this command"};
  if (request.length != 0) return {kEinval, "a resize has a length"};
  if (request.offset == 0 || (request.offset & (exported.min_block - 1)) != 0) {
    return {kEinval, "the size must be a multiple of the smallest block, and not 0"};
  }
  if (request.offset > exported.resize_limit) return {kEnospc, "the size is above the limit that was set for clients"};
  return {};
}

// A range that is not inside: "beyond the new size but not beyond the old one" is no space, whatever the command.
[[gnu::noinline, gnu::cold]] inline Verdict PastEnd(const Request& request, const Terms& terms, Error error) {
  const bool cut_off = request.offset <= terms.largest_size && request.length <= terms.largest_size - request.offset;
  return {cut_off ? kEnospc : error, "the range ends past the end of the device"};
}

// What can be said of a request without the device; kOk if it may go on. kChunks: structured or extended replies were agreed
// on. The length of a WRITE has been found to be no more than the largest payload. Inlined, so that little of it is left where
// the command is known.
template <bool kChunks>
[[gnu::always_inline]] inline Verdict CheckRequest(const Request& request, const Export& exported, const Terms& terms) {
  const auto announced = [&](uint16_t flag) { return (terms.flags & flag) != 0; };
  uint16_t allowed = announced(kFlagSendFua) ? kCmdFlagFua : 0;
  Error past_end = kEinval;
  bool changes = false;
  switch (request.type) {
    case kCmdRead:
      if constexpr (kChunks) allowed |= kCmdFlagDf;
      if (request.length > terms.max_payload) {
        return {kChunks ? kEoverflow : kEinval, "the read is longer than the largest payload"};
      }
      break;
    case kCmdWrite:
      if (kChunks && terms.replies == Terms::Replies::kExtended) allowed |= kCmdFlagPayloadLen;
      changes = true;
      past_end = kEnospc;
      break;
    case kCmdWriteZeroes:
      allowed |= kCmdFlagNoHole;
      if (announced(kFlagSendFastZero)) allowed |= kCmdFlagFastZero;
      changes = true;
      past_end = kEnospc;
      break;
    case kCmdTrim:
      changes = true;
      break;
    case kCmdFlush:
      if (!announced(kFlagSendFlush)) return {kEinval, "the device has nothing to flush"};
      if (request.offset != 0 || request.length != 0) return {kEinval, "a flush has an offset or a length"};
      break;
    case kCmdCache:
      break;
    case kCmdBlockStatus:
      if (!kChunks || terms.contexts.empty()) return {kEinval, "no metadata context was selected"};
      if (request.length == 0) return {kEinval, "the status of no bytes was asked for"};
      allowed |= kCmdFlagReqOne;
      if (announced(kFlagBlockStatusPayload)) allowed |= kCmdFlagPayloadLen;
      break;
    case kCmdResize:
      return CheckResize(request, exported, terms);
    default:
      return {kEinval, "an unknown command"};
  }
  if ((request.flags & ~allowed) != 0) return {kEinval, "a flag that was not offered for this command"};
  if (changes && announced(kFlagReadOnly)) return {kEperm, "the device is read-only"};
  if (request.type == kCmdTrim && !announced(kFlagSendTrim)) return {kEinval, "the device has no trim"};
  if (request.type == kCmdWriteZeroes && !announced(kFlagSendWriteZeroes)) return {kEinval, "the device cannot write zeroes"};
  if (request.offset > exported.size || request.length > exported.size - request.offset) {
    return PastEnd(request, terms, past_end);
  }
  if (((request.offset | request.length) & (exported.min_block - 1)) != 0) {
    return {kEinval, "the range is not aligned to the smallest block"};
  }
  return {};
}

}  // namespace buse::nbd

#endif  // BUSE_REQUEST_H_
