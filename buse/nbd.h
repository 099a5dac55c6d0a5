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
inline constexpr uint32_t kStructuredReplyMagic = 0x668e33ef;
inline constexpr uint32_t kExtendedRequestMagic = 0x21e41c71;
inline constexpr uint32_t kExtendedReplyMagic = 0x6e8a278c;

// Bytes on the wire.
inline constexpr uint32_t kRequestSize = 28;
inline constexpr uint32_t kExtendedRequestSize = 32;
inline constexpr uint32_t kSimpleReplySize = 16;
inline constexpr uint32_t kStructuredReplySize = 20;
inline constexpr uint32_t kExtendedReplySize = 32;
inline constexpr uint32_t kOptionHeaderSize = 16;

// A string of the protocol is at most this long ("Conventions").
inline constexpr uint32_t kMaxString = 4096;
// The largest READ or WRITE, which is the least that the specification wants of a server ("Size constraints").
inline constexpr uint32_t kMaxPayload = 32 << 20;
// A READ of this length with DF must be answered.
inline constexpr uint32_t kLeastMaxPayload = 64 << 10;

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
  kFlagSendDf = 1 << 7,
  kFlagCanMultiConn = 1 << 8,
  kFlagSendResize = 1 << 9,  // of the experimental RESIZE extension
  kFlagSendCache = 1 << 10,
  kFlagSendFastZero = 1 << 11,
  kFlagBlockStatusPayload = 1 << 12,
};

enum Option : uint32_t {
  kOptExportName = 1,
  kOptAbort = 2,
  kOptList = 3,
  kOptStartTls = 5,
  kOptInfo = 6,
  kOptGo = 7,
  kOptStructuredReply = 8,
  kOptListMetaContext = 9,
  kOptSetMetaContext = 10,
  kOptExtendedHeaders = 11,
};

enum OptionReply : uint32_t {
  kRepAck = 1,
  kRepServer = 2,
  kRepInfo = 3,
  kRepMetaContext = 4,
  kRepErrUnsup = 0x80000001,
  kRepErrPolicy = 0x80000002,
  kRepErrInvalid = 0x80000003,
  kRepErrTlsReqd = 0x80000005,
  kRepErrUnknown = 0x80000006,
  kRepErrTooBig = 0x80000009,
  kRepErrExtHeaderReqd = 0x8000000a,
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
  kCmdBlockStatus = 7,
  kCmdResize = 8,
};

enum CommandFlag : uint16_t {
  kCmdFlagFua = 1 << 0,
  kCmdFlagNoHole = 1 << 1,
  kCmdFlagDf = 1 << 2,
  kCmdFlagReqOne = 1 << 3,
  kCmdFlagFastZero = 1 << 4,
  kCmdFlagPayloadLen = 1 << 5,
};

inline constexpr uint16_t kReplyFlagDone = 1 << 0;

enum ReplyType : uint16_t {
  kReplyTypeNone = 0,
  kReplyTypeOffsetData = 1,
  kReplyTypeOffsetHole = 2,
  kReplyTypeBlockStatus = 5,
  kReplyTypeBlockStatusExt = 6,
  kReplyTypeError = 0x8001,
  kReplyTypeErrorOffset = 0x8002,
};

// Flags of an extent in the context base:allocation.
inline constexpr uint32_t kStateHole = 1 << 0;
inline constexpr uint32_t kStateZero = 1 << 1;

// Flags of an extent in the context buse:cache: see docs/nbd-conformance.md.
inline constexpr uint32_t kStateCached = 1 << 0;
inline constexpr uint32_t kStateDirty = 1 << 1;

enum Error : uint32_t {
  kOk = 0,
  kEperm = 1,
  kEio = 5,
  kEinval = 22,
  kEnospc = 28,
  kEoverflow = 75,
  kEnotsup = 95,
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

// What a server of `Stack` says it can do. All connections share one State, so several are always safe. What a client must have
// asked for first is added when it has.
template <Device Stack>
consteval uint16_t TransmissionFlags() {
  uint16_t flags = kFlagHasFlags | kFlagCanMultiConn;
  if (!CanWrite<Stack>) flags |= kFlagReadOnly;
  if (CanWrite<Stack>) flags |= kFlagSendFlush | kFlagSendFua | kFlagSendWriteZeroes;
  if (CanTrim<Stack>) flags |= kFlagSendTrim | kFlagSendFastZero;
  if (CanPrefetch<Stack>) flags |= kFlagSendCache;
  return flags;
}

// Without `hidden`, nor what makes no sense without it.
constexpr uint16_t WithoutFlags(uint16_t flags, uint16_t hidden) {
  flags &= ~hidden;
  return (flags & kFlagSendWriteZeroes) != 0 ? flags : flags & ~kFlagSendFastZero;
}

// The same for a device that was opened read-only.
constexpr uint16_t WithoutWriting(uint16_t flags) {
  return kFlagReadOnly | WithoutFlags(flags, kFlagSendFlush | kFlagSendFua | kFlagSendTrim | kFlagSendWriteZeroes);
}

// Metadata contexts. Their IDs are ours to choose.
enum ContextId : uint32_t {
  kBaseAllocation = 1,  // what is allocated
  kBuseCache = 2,       // what is in memory; our own
};
struct Context {
  ContextId id;
  const char* name;
};
inline constexpr Context kContexts[] = {{kBaseAllocation, "base:allocation"}, {kBuseCache, "buse:cache"}};

// Some of them.
class ContextSet {
 public:
  constexpr bool empty() const { return bits_ == 0; }
  constexpr bool has(uint32_t id) const { return id < 32 && (bits_ >> id & 1) != 0; }
  constexpr void Add(ContextId id) { bits_ |= uint32_t{1} << id; }
  constexpr void Remove(ContextId id) { bits_ &= ~(uint32_t{1} << id); }
  constexpr ContextSet With(ContextId id, bool wanted = true) const {
    ContextSet set = *this;
    if (wanted) set.Add(id);
    return set;
  }
  friend constexpr bool operator==(const ContextSet&, const ContextSet&) = default;

 private:
  uint32_t bits_ = 0;
};

// What a server of `Stack` can tell besides its bytes.
template <Device Stack>
consteval ContextSet ContextsOf() {
  return ContextSet().With(kBaseAllocation, CanExtents<Stack>).With(kBuseCache, CanResidency<Stack>);
}

// A device as a server offers it. Sizes in bytes.
struct Export {
  std::string name;
  std::string description;  // one line for people
  uint64_t size = 0;
  uint16_t flags = kFlagHasFlags;
  uint32_t min_block = 1;
  uint32_t preferred_block = 4096;
  uint32_t max_payload = kMaxPayload;  // of a READ or WRITE: kLeastMaxPayload to kMaxPayload
  ContextSet contexts;                 // that there are
  uint64_t resize_limit = 0;           // up to which clients may change the size; 0: they may not
  // False: refused, as a server from before its time would. Alike for all exports of a server.
  bool structured_replies = true;  // and what builds on them
  bool meta_contexts = true;
  bool extended_headers = true;

  // The size, and a change of it, where the other may run beside.
  uint64_t LoadSize() const { return __atomic_load_n(&size, __ATOMIC_RELAXED); }
  void StoreSize(uint64_t now) { __atomic_store_n(&size, now, __ATOMIC_RELAXED); }
};

// What a server does about TLS; the specification calls it NOTLS, SELECTIVETLS for an export that does not need it, and
// FORCEDTLS.
enum class TlsMode {
  kOff,
  kOn,       // for clients that ask for it
  kRequire,  // without it a client gets nothing
};

// What a client and the server agreed on.
struct Terms {
  enum class Replies { kSimple, kStructured, kExtended };  // kExtended: requests too

  Replies replies = Replies::kSimple;
  uint16_t flags = kFlagHasFlags;
  uint32_t max_payload = kMaxPayload;
  ContextSet contexts;        // that were selected
  uint64_t largest_size = 0;  // that the device has had, if the client changed it
};

}  // namespace buse::nbd

#endif  // BUSE_NBD_H_
