// SPDX-License-Identifier: Apache-2.0
//
// How BLOCK_STATUS is answered: one chunk for each metadata context. Source: doc/proto.md of the NBD project and, for a request with
// a payload, of its branch extension-ext-header; NBD_CMD_BLOCK_STATUS.

#ifndef BUSE_STATUS_COMMAND_H_
#define BUSE_STATUS_COMMAND_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/block_status.h"
#include "buse/device.h"
#include "buse/nbd.h"
#include "buse/request.h"
#include "buse/session.h"

namespace buse {

// Static functions over a session. Errors: those of its stream; what the device says is told to the client.
template <class Session>
class StatusCommand {
 public:
  // `request` was checked, and contexts were selected.
  static absl::Status Take(Session& session, const nbd::Request& request) {
    return Tell(session, request, session.terms.contexts);
  }

  // The payload has the length of the range, and the contexts of interest.
  static absl::Status TakeWithPayload(Session& session, const nbd::Request& request, ConstBytes payload) {
    nbd::ContextSet wanted;
    if (!ParseContexts(session.terms, payload, wanted)) {
      Refuse<true>(session, request, {nbd::kEinval, "a payload that this command does not take"});
      return absl::OkStatus();
    }
    nbd::Request meant = request;
    meant.length = nbd::Load<uint64_t>(payload.data());
    const nbd::Verdict verdict = Check<true>(session, meant);
    if (verdict.error == nbd::kOk) return Tell(session, meant, wanted);
    Refuse<true>(session, request, verdict);
    return absl::OkStatus();
  }

 private:
  // False: none is named, or one that was not selected, or one twice.
  static bool ParseContexts(const nbd::Terms& terms, ConstBytes payload, nbd::ContextSet& wanted) {
    constexpr size_t kLength = 8, kId = 4;
    if ((terms.flags & nbd::kFlagBlockStatusPayload) == 0) return false;
    if (payload.size() <= kLength || (payload.size() - kLength) % kId != 0) return false;
    for (size_t at = kLength; at < payload.size(); at += kId) {
      const uint32_t id = nbd::Load<uint32_t>(payload.data() + at);
      if (!terms.contexts.has(id) || wanted.has(id)) return false;
      wanted.Add(static_cast<nbd::ContextId>(id));
    }
    return true;
  }

  static absl::Status Tell(Session& session, const nbd::Request& request, nbd::ContextSet wanted) {
    for (const nbd::Context& context : nbd::kContexts) {
      if (!wanted.has(context.id)) continue;
      wanted.Remove(context.id);
      absl::StatusOr<Bytes> room = session.stream.TakeRoom(BlockStatus::kMaxBytes, Session::kPayloadAlignment);
      if (!room.ok()) return room.status();
      BlockStatus descriptors(*room, session.extended(), request.has(nbd::kCmdFlagReqOne));
      if (absl::Status status = Ask(session, request.range(), context.id, descriptors); !status.ok()) {
        Conclude<true>(session, request, "block status", status);
        return absl::OkStatus();
      }
      session.stream.replies().BlockStatus(request, context.id, descriptors.bytes(), wanted.empty());
    }
    return absl::OkStatus();
  }

  static absl::Status Ask(Session& session, Range range, nbd::ContextId context, BlockStatus& descriptors) {
    if (context == nbd::kBuseCache) {
      return session.exported.Residency(range, [&](const Resident& resident) { return descriptors.Add(resident); });
    }
    const uint64_t granularity = std::max<uint64_t>(512, session.exported.about.min_block);
    return session.exported.Extents(range, granularity, [&](const Extent& extent) { return descriptors.Add(extent); });
  }
};

}  // namespace buse

#endif  // BUSE_STATUS_COMMAND_H_
