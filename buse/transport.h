// SPDX-License-Identifier: Apache-2.0
//
// How a connection's bytes travel. A transport is any type with the two functions of SocketTransport; tests and fuzz targets
// use one over byte strings.

#ifndef BUSE_TRANSPORT_H_
#define BUSE_TRANSPORT_H_

#include <sys/socket.h>
#include <sys/uio.h>

#include <chrono>
#include <concepts>
#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace buse {

// Looks after a connection that another thread serves. Called by the serving thread.
class Supervisor {
 public:
  virtual ~Supervisor() = default;

  // Before it waits for a request of which nothing has arrived, and again after each signal and each look in vain. False: it is
  // to stop here.
  virtual bool MayWait() = 0;
  // After each wait: what has arrived is acted on when this returns.
  virtual void Arrived() = 0;
};

// A connected stream socket, which it does not own.
class SocketTransport {
 public:
  static constexpr bool kFullDuplex = true;
  // Only the kernel looks at what is sent: memory that it cannot read is an error of Send.
  static constexpr bool kSentByKernel = true;

  explicit SocketTransport(int fd, Supervisor* supervisor = nullptr) : fd_(fd), supervisor_(supervisor) {}

  // From now on, a receive or a send that waits longer counts as a broken connection. 0: never.
  void LimitWaits(std::chrono::milliseconds limit);

  // From now on, a receive looks again and again for so long before it sleeps.
  void SpinFor(std::chrono::microseconds time) { spin_ = time; }

  int fd() const { return fd_; }

  // Whether the next Receive would stop instead of waiting.
  bool Stopping() const { return between_requests_ && supervisor_ != nullptr && !supervisor_->MayWait(); }

  // The next Receive is for a new request: its supervisor may stop it, which leaves the connection as it is.
  void ExpectRequest() { between_requests_ = true; }

  // Waits until there is something, and fills the pieces in order as far as it goes. 0: the client has closed its side.
  // Errors: kUnavailable when the connection broke, kCancelled when the supervisor stopped it.
  absl::StatusOr<size_t> Receive(std::span<iovec> pieces);

  // Sends all, waiting as needed. The pieces are used up. Errors: kUnavailable when the connection broke.
  absl::Status Send(std::span<iovec> pieces);

 private:
  // Looks for so long. False: nothing came, so it must wait. True: `result` has what Receive is to return.
  bool Spin(msghdr& message, bool stoppable, absl::StatusOr<size_t>& result);

  int fd_;
  Supervisor* supervisor_;
  bool between_requests_ = false;
  std::chrono::microseconds spin_{0};
};

// A limit on all waits for a client together.
class Deadline {
 public:
  // From now on. 0: none.
  Deadline(SocketTransport transport, std::chrono::seconds limit);

  // The next wait may take what is left. Errors: kUnavailable when nothing is.
  absl::Status LimitNextWait();

 private:
  SocketTransport transport_;
  const std::chrono::seconds limit_;
  const std::chrono::steady_clock::time_point end_;
};

template <class T>
concept Transport = std::copyable<T> && requires(T transport, std::span<iovec> pieces) {
  { transport.Receive(pieces) } -> std::same_as<absl::StatusOr<size_t>>;
  { transport.Send(pieces) } -> std::same_as<absl::Status>;
};
static_assert(Transport<SocketTransport>);

// Whether one thread may receive while another sends, which a transport says itself. Else a connection has no workers.
template <Transport T>
inline constexpr bool kFullDuplex = [] {
  if constexpr (requires { T::kFullDuplex; }) {
    return T::kFullDuplex;
  } else {
    return false;
  }
}();

}  // namespace buse

#endif  // BUSE_TRANSPORT_H_
