// SPDX-License-Identifier: Apache-2.0
//
// Serving a kernel device: attaching it or taking it over, keeping it connected, and its end.

#ifndef BUSE_SERVE_KERNEL_H_
#define BUSE_SERVE_KERNEL_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/control.h"
#include "buse/kernel.h"
#include "buse/kernel_connections.h"
#include "buse/serve.h"
#include "buse/signals.h"
#include "buse/takeover.h"
#include "buse/target.h"

namespace buse {

// Used once, by the thread that all calls to the kernel are made on. It serves no request.
class KernelServer {
 public:
  KernelServer(const Service& service, const ServeOptions& options);

  // Serves until a signal, or until the device is disconnected. Errors are those of Serve.
  absl::Status Run(const Target& target);

  // Whether it got as far as serving, and the device is still open.
  bool must_flush() const { return served_ && !closed_; }

 private:
  absl::StatusOr<KernelAttachment::Options> AttachOptions(const Target& target) const;
  absl::Status Attach(KernelAttachment::Options options);
  absl::Status Resume(const KernelAttachment::Options& options);
  absl::Status Adopt(KernelAttachment::Options options, Estate& estate);
  absl::StatusOr<size_t> Connect(size_t wanted, std::chrono::seconds request_timeout);
  void Maintain();
  bool Reconnect(size_t dropped);
  void Listen();
  bool WaitForSignal();
  void Answer();
  absl::Status HandOver(ControlChannel& channel);
  absl::Status Resize(uint64_t size);
  absl::Status Detach();
  void LockMemory() const;
  void Announce() const;

  const Service& service_;
  const ServeOptions& options_;
  StopSignals signals_;
  bool served_ = false;
  bool closed_ = false;  // the stack, for another server to open
  // Some connection was lost otherwise than by the kernel's word, and could not be replaced.
  bool broken_ = false;
  std::optional<ControlSocket> control_;
  KernelConnections connections_;
  // Last: until it is detached it needs the threads of the connections.
  std::unique_ptr<KernelAttachment> attachment_;
};

}  // namespace buse

#endif  // BUSE_SERVE_KERNEL_H_
