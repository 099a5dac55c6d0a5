// SPDX-License-Identifier: Apache-2.0

#include "buse/transport.h"

#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace buse {
namespace {

absl::Status Broken(const char* doing, int error) {
  if (error == EAGAIN) return absl::UnavailableError(absl::StrCat(doing, ": nothing moved for too long"));
  return absl::UnavailableError(absl::StrCat(doing, ": ", std::strerror(error)));
}

}  // namespace

void SocketTransport::LimitWaits(std::chrono::milliseconds limit) {
  const timeval wait = {limit.count() / 1000, limit.count() % 1000 * 1000};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
  setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
}

bool SocketTransport::Spin(msghdr& message, bool stoppable, absl::StatusOr<size_t>& result) {
  const auto end = std::chrono::steady_clock::now() + spin_;
  do {
    if (stoppable && !supervisor_->MayWait()) {
      result = absl::CancelledError("stopped between two requests");
      return true;
    }
    if (const ssize_t n = recvmsg(fd_, &message, MSG_DONTWAIT); n >= 0) {
      if (supervisor_ != nullptr) supervisor_->Arrived();
      result = n;
      return true;
    }
  } while (errno == EAGAIN && std::chrono::steady_clock::now() < end);
  return false;
}

absl::StatusOr<size_t> SocketTransport::Receive(std::span<iovec> pieces) {
  msghdr message{};
  message.msg_iov = pieces.data();
  message.msg_iovlen = pieces.size();
  const bool stoppable = std::exchange(between_requests_, false) && supervisor_ != nullptr;
  if (spin_.count() > 0) {
    absl::StatusOr<size_t> result = 0;
    if (Spin(message, stoppable, result)) return result;
  }
  for (;;) {
    if (stoppable && !supervisor_->MayWait()) return absl::CancelledError("stopped between two requests");
    // recv where it will do: it is cheaper by what it takes to read a list of pieces.
    const ssize_t n = pieces.size() == 1 ? recv(fd_, pieces[0].iov_base, pieces[0].iov_len, 0) : recvmsg(fd_, &message, 0);
    const int error = errno;
    if (supervisor_ != nullptr) supervisor_->Arrived();
    if (n >= 0) return n;
    if (error != EINTR) return Broken("receiving from the client", error);
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
      if (errno == EFAULT) return absl::UnavailableError("sending to the client: bytes of the device's file could not be read");
      return Broken("sending to the client", errno);
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

Deadline::Deadline(SocketTransport transport, std::chrono::seconds limit)
    : transport_(transport), limit_(limit), end_(std::chrono::steady_clock::now() + limit) {
  transport_.LimitWaits(limit);
}

absl::Status Deadline::LimitNextWait() {
  if (limit_.count() == 0) return absl::OkStatus();
  const auto left = std::chrono::floor<std::chrono::milliseconds>(end_ - std::chrono::steady_clock::now());
  if (left.count() <= 0) return absl::UnavailableError(absl::StrCat("the client took longer than ", limit_.count(), " s"));
  transport_.LimitWaits(left);
  return absl::OkStatus();
}

}  // namespace buse
