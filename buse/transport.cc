// SPDX-License-Identifier: Apache-2.0

#include "buse/transport.h"

#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace buse {
namespace {

absl::Status Broken(const char* doing) { return absl::UnavailableError(absl::StrCat(doing, ": ", std::strerror(errno))); }

}  // namespace

void SocketTransport::LimitWaits(std::chrono::seconds limit) {
  const timeval wait = {limit.count(), 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
  setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
}

absl::StatusOr<size_t> SocketTransport::Receive(std::span<iovec> pieces) {
  msghdr message{};
  message.msg_iov = pieces.data();
  message.msg_iovlen = pieces.size();
  for (;;) {
    const ssize_t n = recvmsg(fd_, &message, 0);
    if (n >= 0) return n;
    if (errno != EINTR) return Broken("receiving from the client");
  }
}

absl::Status SocketTransport::Send(std::span<iovec> pieces) {
  while (!pieces.empty()) {
    msghdr message{};
    message.msg_iov = pieces.data();
    message.msg_iovlen = pieces.size();
    ssize_t n = sendmsg(fd_, &message, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      return Broken("sending to the client");
    }
    while (!pieces.empty() && static_cast<size_t>(n) >= pieces.front().iov_len) {
      n -= pieces.front().iov_len;
      pieces = pieces.subspan(1);
    }
    if (n > 0) {
      pieces.front().iov_base = static_cast<char*>(pieces.front().iov_base) + n;
      pieces.front().iov_len -= n;
    }
  }
  return absl::OkStatus();
}

}  // namespace buse
