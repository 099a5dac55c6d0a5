// SPDX-License-Identifier: Apache-2.0
//
// How a server comes by a kernel device that another one attached: with --resume after that one was killed, with --replace
// from the one that runs.
//
// A replacement is a conversation on the control socket of the one that serves:
//   new  "replace"
//   old  stops between two requests, makes all durable, closes its stack, and sends "yours ..." with the sockets and what
//        contents live in its memory. Or "error ...", and goes on
//   new  opens its stack and says "ready"
//   old  says "go" and ends. If the new one is gone instead, or takes too long, or a signal comes for the old one, that says
//        "error ...", opens its stack again and goes on
//   new  serves the sockets. Not before: until it is told to, it has taken nothing from them
// So there is one that decides, and at no time are there two that serve. The kernel notices nothing: requests wait in the
// sockets meanwhile.

#ifndef BUSE_TAKEOVER_H_
#define BUSE_TAKEOVER_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/control.h"
#include "buse/handover.h"
#include "buse/io.h"
#include "buse/serve.h"

namespace buse {

// What the server before hands over.
struct Estate {
  std::chrono::seconds request_timeout{0};
  std::vector<UniqueFd> sockets;
  std::vector<MemoryContents> contents;

  absl::Status SendBy(ControlChannel& channel) const;
  static absl::StatusOr<Estate> From(ControlMessage message);
};

// What a server is asked on its control socket.
inline constexpr char kReplaceRequest[] = "replace";
inline constexpr char kResizeRequest[] = "resize ";  // and the bytes; answered with "done"
inline constexpr char kDone[] = "done";
inline constexpr char kReady[] = "ready";
inline constexpr char kGo[] = "go";

// What is taken over, if anything.
class Takeover {
 public:
  // As `options` ask: nothing, or finds the device and sees to it that its server before is dead or has let go of it.
  // `loss`: what of that which is to be served dies with its process.
  //   kInvalidArgument     the target is no kernel device, or the options contradict each other
  //   kAlreadyExists       to be resumed, but its server lives
  //   kFailedPrecondition  to be replaced, but no server is there to be asked; or to be resumed, but not all that it held is left
  static absl::StatusOr<Takeover> Begin(const ServeOptions& options, Loss loss);

  // The device, such as /dev/nbd0; empty: nothing is taken over.
  const std::string& device() const { return device_; }
  // What was handed over, if the one before lived.
  Estate* estate() { return estate_.has_value() ? &*estate_ : nullptr; }

  // Tells the one before that all is ready. OK: it has ended, and the device is ours. Otherwise it goes on.
  absl::Status Confirm();

 private:
  absl::Status Resume(const ServeOptions& options, const std::vector<std::string>& devices, Loss loss);
  absl::Status Replace(const ServeOptions& options, const std::vector<std::string>& devices);

  std::string device_;
  std::optional<ControlChannel> channel_;
  std::optional<Estate> estate_;
};

}  // namespace buse

#endif  // BUSE_TAKEOVER_H_
