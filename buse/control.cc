// SPDX-License-Identifier: Apache-2.0

#include "buse/control.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "buse/status.h"

namespace buse {
namespace {

constexpr char kFolder[] = "/run/buse";
constexpr size_t kMaxText = 8192;
constexpr size_t kMaxFiles = 200;
constexpr absl::string_view kError = "error ";

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  assert(path.size() < sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

std::string PathOf(absl::string_view name) { return absl::StrCat(kFolder, "/", name, ".sock"); }

UniqueFd MakeSocket() { return UniqueFd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)); }

ucred PeerOf(int socket) {
  ucred peer = {0, static_cast<uid_t>(-1), static_cast<gid_t>(-1)};
  socklen_t length = sizeof(peer);
  getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length);
  return peer;
}

}  // namespace

absl::StatusOr<ControlChannel> ControlChannel::Connect(absl::string_view name) {
  const std::string path = PathOf(name);
  const sockaddr_un address = AddressOf(path);
  UniqueFd socket = MakeSocket();
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    return ControlChannel(std::move(socket));
  }
  if (errno == ENOENT || errno == ENOTDIR || errno == ECONNREFUSED) {
    return absl::NotFoundError(absl::StrCat("no server listens on ", path));
  }
  return StatusFromErrno(errno, absl::StrCat("reaching the server on ", path));
}

pid_t ControlChannel::peer() const { return PeerOf(socket_.get()).pid; }

absl::Status ControlChannel::Send(const std::string& text, const std::vector<int>& files) {
  assert(text.size() <= kMaxText && files.size() <= kMaxFiles);
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxFiles)> control{};
  iovec piece = {const_cast<char*>(text.data()), text.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (!files.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(sizeof(int) * files.size());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * files.size());
    std::memcpy(CMSG_DATA(header), files.data(), sizeof(int) * files.size());
  }
  ssize_t n;
  do {
    n = sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n >= 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("the other program is gone: ", std::strerror(errno)));
}

absl::StatusOr<ControlMessage> ControlChannel::Receive(std::chrono::seconds limit) {
  const timeval wait = {limit.count(), 0};
  setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxFiles)> control{};
  ControlMessage result;
  result.text.resize(kMaxText);
  iovec piece = {result.text.data(), result.text.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t n;
  do {
    n = recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n <= 0) {
    return absl::UnavailableError(
        absl::StrCat("the other program ", n == 0 ? "ended" : "did not answer: ", n == 0 ? "" : std::strerror(errno)));
  }
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    std::vector<int> files((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    std::memcpy(files.data(), CMSG_DATA(header), files.size() * sizeof(int));
    for (int file : files) result.files.emplace_back(file);
  }
  result.text.resize(static_cast<size_t>(n));
  if ((message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0) {
    return absl::UnavailableError("the other program's message arrived in part: raise the limit on open files (ulimit -n)");
  }
  return result;
}

absl::Status ControlChannel::SendError(const absl::Status& error) {
  std::string text = absl::StrCat(kError, static_cast<int>(error.code()), " ", error.message());
  text.resize(std::min(text.size(), kMaxText));
  return Send(text);
}

absl::Status ControlChannel::ErrorIn(const ControlMessage& message) {
  absl::string_view rest = message.text;
  if (!absl::ConsumePrefix(&rest, kError)) return absl::OkStatus();
  const size_t space = rest.find(' ');
  int code = 0;
  if (space == absl::string_view::npos || !absl::SimpleAtoi(rest.substr(0, space), &code) || code == 0) {
    return absl::InternalError(message.text);
  }
  return absl::Status(static_cast<absl::StatusCode>(code), rest.substr(space + 1));
}

absl::StatusOr<ControlSocket> ControlSocket::Listen(absl::string_view name) {
  const std::string path = PathOf(name);
  const std::string unfinished = absl::StrCat(path, ".", getpid());
  const auto failed = [&] { return StatusFromErrno(errno, absl::StrCat("making the control socket ", path)); };
  if (mkdir(kFolder, 0700) != 0 && errno != EEXIST) return failed();
  const sockaddr_un address = AddressOf(unfinished);
  UniqueFd socket = MakeSocket();
  unlink(unfinished.c_str());
  struct stat about;
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 || listen(socket.get(), 8) != 0 ||
      stat(unfinished.c_str(), &about) != 0 || rename(unfinished.c_str(), path.c_str()) != 0) {
    absl::Status status = failed();
    unlink(unfinished.c_str());
    return status;
  }
  return ControlSocket(path, std::move(socket), about.st_ino);
}

ControlSocket::~ControlSocket() {
  // It may be that of a server that took over.
  struct stat about;
  if (socket_.valid() && stat(path_.c_str(), &about) == 0 && about.st_ino == inode_) unlink(path_.c_str());
}

absl::StatusOr<ControlChannel> ControlSocket::Accept() {
  UniqueFd socket(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket.valid()) return StatusFromErrno(errno, "accepting on the control socket");
  const uid_t user = PeerOf(socket.get()).uid;
  if (user != 0 && user != geteuid()) {
    return absl::PermissionDeniedError(absl::StrCat("user ", user, " may not control this server"));
  }
  return ControlChannel(std::move(socket));
}

}  // namespace buse
