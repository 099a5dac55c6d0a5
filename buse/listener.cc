// SPDX-License-Identifier: Apache-2.0

#include "buse/listener.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "buse/status.h"

namespace buse {
namespace {

constexpr int kSocketFlags = SOCK_CLOEXEC | SOCK_NONBLOCK;

sockaddr_un UnixAddress(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());  // the target's length was checked when it was parsed
  return address;
}

// Keeps two servers from replacing the same dead one's socket. Whoever holds the lock for other ends is not waited for long.
UniqueFd LockFolder(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  UniqueFd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (int tries = 0; fd.valid() && flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK && tries < 100; ++tries) {
    usleep(10000);
  }
  return fd;
}

absl::Status RemoveIfStale(const std::string& path) {
  struct stat about;
  if (lstat(path.c_str(), &about) != 0) return absl::OkStatus();
  if (!S_ISSOCK(about.st_mode)) {
    return absl::AlreadyExistsError(absl::StrCat(path, " exists and is no socket: choose another path"));
  }
  const sockaddr_un address = UnixAddress(path);
  UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | kSocketFlags, 0));
  if (!probe.valid()) return StatusFromErrno(errno, "making a socket");
  const int error = connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ? 0 : errno;
  if (error == 0 || error == EAGAIN) {
    return absl::AlreadyExistsError(absl::StrCat("a server listens on ", path, " already: end it, or choose another path"));
  }
  if (error != ECONNREFUSED) return StatusFromErrno(error, absl::StrCat("finding out whether a server listens on ", path));
  unlink(path.c_str());
  return absl::OkStatus();
}

// A name may have the same address twice, as with two lines in /etc/hosts.
bool IsRepeated(const addrinfo* first, const addrinfo* one) {
  for (const addrinfo* at = first; at != one; at = at->ai_next) {
    if (at->ai_addrlen == one->ai_addrlen && std::memcmp(at->ai_addr, one->ai_addr, one->ai_addrlen) == 0) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<Listener> Listener::Listen(const Target& target) {
  Listener listener(target);
  absl::Status status = target.kind == Target::Kind::kUnixSocket ? listener.ListenUnix() : listener.ListenTcp();
  if (!status.ok()) return status;
  return listener;
}

absl::StatusOr<absl::optional<Listener>> Listener::Inherit() {
  constexpr int kFirst = 3;  // SD_LISTEN_FDS_START
  const char* pid_text = std::getenv("LISTEN_PID");
  const char* count_text = std::getenv("LISTEN_FDS");
  pid_t pid = 0;
  int count = 0;
  if (pid_text == nullptr || count_text == nullptr || !absl::SimpleAtoi(pid_text, &pid) || pid != getpid())
    return absl::nullopt;
  if (!absl::SimpleAtoi(count_text, &count) || count < 1) return absl::nullopt;
  for (const char* name : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) unsetenv(name);
  Listener listener{Target{}};
  for (int fd = kFirst; fd < kFirst + count; ++fd) {
    if (absl::Status status = listener.Adopt(fd); !status.ok()) return status;
  }
  return listener;
}

absl::Status Listener::Adopt(int fd) {
  const auto option = [&](int name) {
    int value = 0;
    socklen_t length = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, name, &value, &length) == 0 ? value : -1;
  };
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  if (option(SO_TYPE) != SOCK_STREAM || option(SO_ACCEPTCONN) != 1 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0 ||
      (address.ss_family != AF_UNIX && address.ss_family != AF_INET && address.ss_family != AF_INET6)) {
    return absl::InvalidArgumentError(
        absl::StrCat("descriptor ", fd,
                     ", which the service manager left as LISTEN_FDS says, is no "
                     "listening stream socket: write ListenStream= in the socket unit, and not Accept=yes"));
  }
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  fds_.emplace_back(fd);
  if (fds_.size() > 1) return absl::OkStatus();
  if (address.ss_family == AF_UNIX) {
    const auto& path = reinterpret_cast<const sockaddr_un&>(address).sun_path;
    target_.kind = Target::Kind::kUnixSocket;
    target_.path = std::string(path, strnlen(path, length - offsetof(sockaddr_un, sun_path)));
    return absl::OkStatus();
  }
  char host[NI_MAXHOST] = "", port[NI_MAXSERV] = "0";
  getnameinfo(reinterpret_cast<sockaddr*>(&address), length, host, sizeof(host), port, sizeof(port),
              NI_NUMERICHOST | NI_NUMERICSERV);
  target_.kind = Target::Kind::kTcp;
  target_.host = host;
  target_.port = static_cast<uint16_t>(std::atoi(port));
  return absl::OkStatus();
}

Listener::Listener(Listener&& other) noexcept
    : target_(std::move(other.target_)), fds_(std::move(other.fds_)), inode_(std::exchange(other.inode_, 0)) {}

Listener::~Listener() {
  // Somebody else's socket may be there by now.
  struct stat about;
  if (inode_ != 0 && lstat(target_.path.c_str(), &about) == 0 && about.st_ino == inode_) unlink(target_.path.c_str());
}

absl::Status Listener::ListenUnix() {
  const UniqueFd lock = LockFolder(target_.path);
  if (absl::Status status = RemoveIfStale(target_.path); !status.ok()) return status;
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | kSocketFlags, 0));
  const sockaddr_un address = UnixAddress(target_.path);
  if (fd.get() < 0 || bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    const int error = errno;
    absl::Status status = StatusFromErrno(error, absl::StrCat("creating the socket ", target_.path));
    if (error == ENOENT)
      return absl::NotFoundError(absl::StrCat("no folder for the socket ", target_.path, ": create it first"));
    if (error == EADDRINUSE) return absl::AlreadyExistsError(status.message());
    return status;
  }
  struct stat about;
  if (lstat(target_.path.c_str(), &about) == 0) inode_ = about.st_ino;
  if (listen(fd.get(), SOMAXCONN) != 0) return StatusFromErrno(errno, absl::StrCat("listening on ", target_.path));
  fds_.push_back(std::move(fd));
  return absl::OkStatus();
}

absl::Status Listener::ListenTcp() {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string port = absl::StrCat(target_.port);
  if (int error = getaddrinfo(target_.host.c_str(), port.c_str(), &hints, &found); error != 0) {
    return absl::NotFoundError(absl::StrCat("cannot find the address of \"", target_.host, "\": ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, freeaddrinfo);
  absl::Status failure;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    if (IsRepeated(found, at)) continue;
    UniqueFd fd(socket(at->ai_family, SOCK_STREAM | kSocketFlags, 0));
    const int on = 1;
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    // A name's IPv6 address must not take its IPv4 one along.
    if (at->ai_family == AF_INET6) setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    sockaddr_storage address{};
    std::memcpy(&address, at->ai_addr, at->ai_addrlen);
    // With port 0, the other addresses take the port that the first one got.
    (at->ai_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                               : reinterpret_cast<sockaddr_in&>(address).sin_port) = htons(target_.port);
    if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), at->ai_addrlen) != 0 || listen(fd.get(), SOMAXCONN) != 0) {
      const int error = errno;
      failure = StatusFromErrno(error, absl::StrCat("listening on ", target_.host, " port ", target_.port));
      if (error == EADDRINUSE) failure = absl::AlreadyExistsError(failure.message());
      continue;
    }
    if (target_.port == 0) {
      socklen_t length = sizeof(address);
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length);
      target_.port = ntohs(at->ai_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                                     : reinterpret_cast<sockaddr_in&>(address).sin_port);
    }
    fds_.push_back(std::move(fd));
  }
  // One address in use is one too many: clients would meet two servers under one name.
  if (failure.code() == absl::StatusCode::kAlreadyExists || fds_.empty()) return failure;
  return absl::OkStatus();
}

}  // namespace buse
