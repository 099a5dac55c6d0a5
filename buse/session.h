// SPDX-License-Identifier: Apache-2.0
//
// Session: what serving one client in transmission works on, and how a request is concluded.

#ifndef BUSE_SESSION_H_
#define BUSE_SESSION_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "buse/buffers.h"
#include "buse/device.h"
#include "buse/exported.h"
#include "buse/nbd.h"
#include "buse/request.h"
#include "buse/status.h"
#include "buse/stream.h"
#include "buse/transport.h"

namespace buse {

// Used by one thread. kChunks: structured or extended replies were agreed on.
template <Device Stack, Transport T>
struct Session {
  // Payload buffers keep the alignment that a layer doing direct I/O would want of memory.
  static constexpr size_t kPayloadAlignment = Stack::kBlockSize >= 512 ? 4096 : 64;

  Session(Exported<Stack>& device, T transport, Buffers buffers) : exported(device), stream(transport, std::move(buffers)) {
    terms.flags = device.about.flags;
  }

  bool extended() const { return terms.replies == nbd::Terms::Replies::kExtended; }

  Exported<Stack>& exported;
  Stream<T> stream;
  nbd::Terms terms;
};

template <bool kChunks, class AnySession>
[[gnu::always_inline]] inline nbd::Verdict Check(const AnySession& session, const nbd::Request& request) {
  return nbd::CheckRequest<kChunks>(request, session.exported.about, session.terms);
}

// ---- Of a Session, or of what a worker has in its place.

// What the device failed.
template <bool kChunks, class AnySession>
[[gnu::noinline]] void Fail(AnySession& session, const nbd::Request& request, const char* command, Range range,
                            const absl::Status& status, std::optional<uint64_t> at) {
  const uint32_t error = NbdErrorFromStatus(status.code());
  if constexpr (kChunks) {
    session.stream.replies().Error(request, error, status.message(), at);
  } else {
    session.stream.replies().Simple(request.cookie, error);
  }
  session.exported.on_failure(command, range, status);
}

// A request that has no answer of its own but for an error.
template <bool kChunks, class AnySession>
void Conclude(AnySession& session, const nbd::Request& request, const char* command, const absl::Status& status) {
  if (!status.ok()) {
    Fail<kChunks>(session, request, command, request.range(), status, {});
  } else if constexpr (kChunks) {
    session.stream.replies().Done(request);
  } else {
    session.stream.replies().Simple(request.cookie, nbd::kOk);
  }
}

// For what never reaches the device.
template <bool kChunks, class AnySession>
[[gnu::noinline]] void Refuse(AnySession& session, const nbd::Request& request, const nbd::Verdict& verdict) {
  if constexpr (kChunks) {
    session.stream.replies().Error(request, verdict.error, verdict.why);
  } else {
    session.stream.replies().Simple(request.cookie, verdict.error);
  }
}

}  // namespace buse

#endif  // BUSE_SESSION_H_
