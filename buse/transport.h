// SPDX-License-Identifier: Apache-2.0
//
// How a connection's bytes travel. A transport is any type with the two functions of SocketTransport; tests and fuzz targets
// use one over byte strings.

#ifndef BUSE_TRANSPORT_H_
#define BUSE_TRANSPORT_H_

#include <sys/uio.h>

#include <chrono>
#include <concepts>
#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace buse {

// A connected stream socket, which it does not own. One thread may receive while another sends.
class SocketTransport {
 public:
  explicit SocketTransport(int fd) : fd_(fd) {}

  // From now on, a receive or a send that waits longer counts as a broken connection. 0: never.
  void LimitWaits(std::chrono::seconds limit);

  // Waits until there is something, and fills the pieces in order as far as it goes. 0: the client has closed its side.
  // Errors: kUnavailable when the connection broke.
  absl::StatusOr<size_t> Receive(std::span<iovec> pieces);

  // Sends all, waiting as needed. The pieces are used up. Errors: kUnavailable when the connection broke.
  absl::Status Send(std::span<iovec> pieces);

 private:
  int fd_;
};

template <class T>
concept Transport = std::copyable<T> && requires(T transport, std::span<iovec> pieces) {
  { transport.Receive(pieces) } -> std::same_as<absl::StatusOr<size_t>>;
  { transport.Send(pieces) } -> std::same_as<absl::Status>;
};
static_assert(Transport<SocketTransport>);

}  // namespace buse

#endif  // BUSE_TRANSPORT_H_
