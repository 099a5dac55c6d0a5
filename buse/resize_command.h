// SPDX-License-Identifier: Apache-2.0
//
// How RESIZE is answered, which is experimental. Source: doc/proto.md of the NBD project's branch extension-resize, NBD_CMD_RESIZE.
// It leaves much open; what is done here:
//   The new size is what the request has as its offset. Its length means nothing there, so it must be 0.
//   All clients can use the new size from then on. The extension has no word by which others are told: a client that connects, or
//   asks INFO, learns it.
//   Less than before is refused, by EPERM, while others are connected, who may be using what would be cut off.
//   "Requests beyond the new size but not beyond the old one" fail with ENOSPC for the client that resized.

#ifndef BUSE_RESIZE_COMMAND_H_
#define BUSE_RESIZE_COMMAND_H_

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/nbd.h"
#include "buse/request.h"
#include "buse/session.h"

namespace buse {

// Static functions over a session. Errors: those of its stream; what the device says is told to the client.
template <class Session>
class ResizeCommand {
 public:
  // `request` was checked, so that resizing is offered.
  template <bool kChunks>
  static absl::Status Take(Session& session, const nbd::Request& request) {
    // Views are given back before bytes are taken away.
    if (absl::Status status = session.stream.SendReplies(); !status.ok()) return status;
    const uint64_t before = session.exported.about.size;
    const auto resize = [&](bool alone) {
      if (request.offset < session.exported.about.size && !alone) {
        return absl::PermissionDeniedError("other clients are connected, who may use what would be cut off");
      }
      return session.exported.Resize(request.offset);
    };
    const absl::Status status = session.exported.resize_gate.Alone(kWait, resize);
    if (status.ok()) session.terms.largest_size = std::max({session.terms.largest_size, before, request.offset});
    Conclude<kChunks>(session, request, "resize to", status);
    return absl::OkStatus();
  }

 private:
  // For other clients to take what they are being sent. They wait meanwhile.
  static constexpr std::chrono::seconds kWait{5};
};

}  // namespace buse

#endif  // BUSE_RESIZE_COMMAND_H_
