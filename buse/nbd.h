// SPDX-License-Identifier: Apache-2.0
//
// The numbers of the NBD protocol, and the flags that a stack's type implies. Source: doc/proto.md of the NBD project,
// section "Values"; names are those of the specification without the NBD_ prefix.

#ifndef BUSE_NBD_H_
#define BUSE_NBD_H_

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>

#include "buse/device.h"

namespace buse::nbd {

inline constexpr uint64_t kMagic = 0x4e42444d41474943;        // "NBDMAGIC"
inline constexpr uint64_t kOptionMagic = 0x49484156454f5054;  // "IHAVEOPT"
inline constexpr uint64_t kOptionReplyMagic = 0x3e889045565a9;
inline constexpr uint32_t kRequestMagic = 0x25609513;
inline constexpr uint32_t kSimpleReplyMagic = 0x67446698;

// Bytes on the wire.
inline constexpr uint32_t kRequestSize = 28;
inline constexpr uint32_t kSimpleReplySize = 16;
inline constexpr uint32_t kOptionHeaderSize = 16;

// A string of the protocol is at most this long ("Conventions").
inline constexpr uint32_t kMaxString = 4096;
// The largest READ or WRITE, which is the least that the specification wants of a server ("Size constraints").
inline constexpr uint32_t kMaxPayload = 32 << 20;

// Handshake flags, and the client's in answer.
inline constexpr uint16_t kFlagFixedNewstyle = 1 << 0;
inline constexpr uint16_t kFlagNoZeroes = 1 << 1;

enum TransmissionFlag : uint16_t {
  kFlagHasFlags = 1 << 0,
  kFlagReadOnly = 1 << 1,
  kFlagSendFlush = 1 << 2,
  kFlagSendFua = 1 << 3,
  kFlagSendTrim = 1 << 5,
  kFlagSendWriteZeroes = 1 << 6,
  kFlagCanMultiConn = 1 << 8,
  kFlagSendCache = 1 << 10,
};

enum Option : uint32_t {
  kOptExportName = 1,
  kOptAbort = 2,
  kOptList = 3,
  kOptInfo = 6,
  kOptGo = 7,
};

enum OptionReply : uint32_t {
  kRepAck = 1,
  kRepServer = 2,
  kRepInfo = 3,
  kRepErrUnsup = 0x80000001,
  kRepErrInvalid = 0x80000003,
  kRepErrUnknown = 0x80000006,
  kRepErrTooBig = 0x80000009,
};

enum Info : uint16_t {
  kInfoExport = 0,
  kInfoName = 1,
  kInfoDescription = 2,
  kInfoBlockSize = 3,
};

enum Command : uint16_t {
  kCmdRead = 0,
  kCmdWrite = 1,
  kCmdDisc = 2,
  kCmdFlush = 3,
  kCmdTrim = 4,
  kCmdCache = 5,
  kCmdWriteZeroes = 6,
};

enum CommandFlag : uint16_t {
  kCmdFlagFua = 1 << 0,
  kCmdFlagNoHole = 1 << 1,
};

enum Error : uint32_t {
  kOk = 0,
  kEperm = 1,
  kEio = 5,
  kEinval = 22,
  kEnospc = 28,
};

// Everything on the wire is big-endian.
template <class T>
T Load(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  if constexpr (std::endian::native == std::endian::big || sizeof(T) == 1) return value;
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
}

template <class T>
void Store(void* to, T value) {
  const T big = Load<T>(&value);
  std::memcpy(to, &big, sizeof(big));
}

struct Request {
  uint32_t magic = 0;
  uint16_t flags = 0;
  uint16_t type = 0;
  uint64_t cookie = 0;
  uint64_t offset = 0;
  uint32_t length = 0;

  static Request Parse(const std::byte* wire) {
    return {.magic = Load<uint32_t>(wire),
            .flags = Load<uint16_t>(wire + 4),
            .type = Load<uint16_t>(wire + 6),
            .cookie = Load<uint64_t>(wire + 8),
            .offset = Load<uint64_t>(wire + 16),
            .length = Load<uint32_t>(wire + 24)};
  }
};

// What a server of `Stack` says it can do. All connections share one State, so several are always safe.
template <Device Stack>
consteval uint16_t TransmissionFlags() {
  uint16_t flags = kFlagHasFlags | kFlagCanMultiConn;
  if (!CanWrite<Stack>) flags |= kFlagReadOnly;
  if (CanWrite<Stack>) flags |= kFlagSendFlush | kFlagSendFua | kFlagSendWriteZeroes;
  if (CanTrim<Stack>) flags |= kFlagSendTrim;
  if (CanPrefetch<Stack>) flags |= kFlagSendCache;
  return flags;
}

// The same for a device that was opened read-only.
constexpr uint16_t WithoutWriting(uint16_t flags) {
  return (flags | kFlagReadOnly) & ~(kFlagSendFlush | kFlagSendFua | kFlagSendTrim | kFlagSendWriteZeroes);
}

// A device as a server offers it. Sizes in bytes.
struct Export {
  std::string name;         // the default export, "", leads to it too
  std::string description;  // one line for people
  uint64_t size = 0;
  uint16_t flags = kFlagHasFlags;
  uint32_t min_block = 1;
  uint32_t preferred_block = 4096;
};

// The error that a request earns before it reaches the device; kOk if it may go on.
inline Error CheckRequest(const Request& request, const Export& exported) {
  const auto announced = [&](uint16_t flag) { return (exported.flags & flag) != 0; };
  uint16_t allowed = announced(kFlagSendFua) ? kCmdFlagFua : 0;
  Error past_end = kEinval;
  bool changes = false;
  bool payload = false;
  switch (request.type) {
    case kCmdRead:
      payload = true;
      break;
    case kCmdWrite:
      payload = changes = true;
      past_end = kEnospc;
      break;
    case kCmdWriteZeroes:
      changes = true;
      past_end = kEnospc;
      allowed |= kCmdFlagNoHole;
      break;
    case kCmdTrim:
      changes = true;
      break;
    case kCmdFlush:
      if (!announced(kFlagSendFlush) || request.offset != 0 || request.length != 0) return kEinval;
      break;
    case kCmdCache:
      break;
    default:
      return kEinval;
  }
  if ((request.flags & ~allowed) != 0) return kEinval;
  if (changes && announced(kFlagReadOnly)) return kEperm;
  if (request.type == kCmdTrim && !announced(kFlagSendTrim)) return kEinval;
  if (request.type == kCmdWriteZeroes && !announced(kFlagSendWriteZeroes)) return kEinval;
  if (payload && request.length > kMaxPayload) return kEinval;
  if (request.offset > exported.size || request.length > exported.size - request.offset) return past_end;
  if (((request.offset | request.length) & (exported.min_block - 1)) != 0) return kEinval;
  return kOk;
}

}  // namespace buse::nbd

#endif  // BUSE_NBD_H_
