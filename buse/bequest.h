// SPDX-License-Identifier: Apache-2.0
//
// What a server does that another one is to replace: its side of the conversation in buse/takeover.h.

#ifndef BUSE_BEQUEST_H_
#define BUSE_BEQUEST_H_

#include <chrono>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/control.h"
#include "buse/kernel.h"
#include "buse/kernel_connections.h"
#include "buse/serve.h"
#include "buse/signals.h"
#include "buse/takeover.h"

namespace buse {

// Used once, by the thread that all calls to the kernel are made on. All that it is given must outlive it.
class Bequest {
 public:
  // `dead_timeout`: how long the kernel waits for any server.
  Bequest(const Service& service, KernelConnections& connections, KernelAttachment& attachment, const StopSignals& signals,
          std::chrono::seconds dead_timeout)
      : service_(service), connections_(connections), attachment_(attachment), signals_(signals), dead_timeout_(dead_timeout) {}

  // Hands all over to the program on `channel`, which has asked for it. OK: that one serves, and this one has nothing left. Not
  // OK: this one goes on, unless it is closed().
  //   kUnimplemented      what is served, or how it is attached, cannot be handed over
  //   kDeadlineExceeded   a request takes too long, or the other program does
  //   kCancelled          a signal came
  //   kUnavailable        the other program is gone
  //   any other           what was written could not be made durable
  absl::Status Make(ControlChannel& channel);

  // The stack, for another server to open. After an error: for whichever comes, since it could not be opened again.
  bool closed() const { return closed_; }
  // The stack was closed in between.
  bool reopened() const { return reopened_; }

 private:
  absl::StatusOr<Estate> CloseEstate();
  absl::Status Give(const Estate& estate, ControlChannel& channel);
  void TakeBack(const Estate& estate);
  std::chrono::seconds Patience() const;

  const Service& service_;
  KernelConnections& connections_;
  KernelAttachment& attachment_;
  const StopSignals& signals_;
  const std::chrono::seconds dead_timeout_;
  bool closed_ = false;
  bool reopened_ = false;
};

}  // namespace buse

#endif  // BUSE_BEQUEST_H_
