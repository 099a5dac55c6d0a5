// SPDX-License-Identifier: Apache-2.0

#include "buse/listener.h"

#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/ioctl.h>
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

// Under which others find this machine, as far as can be told. A guest without a CID in its target means the host.
uint32_t OwnCid() {
  const UniqueFd device(open("/dev/vsock", O_RDONLY | O_CLOEXEC));
  uint32_t cid = 0;
  if (!device.valid() || ioctl(device.get(), IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) != 0) return Target::kAnyCid;
  return cid == VMADDR_CID_ANY ? VMADDR_CID_LOCAL : cid;  // neither guest nor host: it can only talk to itself
}

}  // namespace

absl::StatusOr<Listener> Listener::Listen(const Target& target) {
  Listener listener(target);
  absl::Status status = target.kind == Target::Kind::kUnixSocket ? listener.ListenUnix()
                        : target.kind == Target::Kind::kVsock    ? listener.ListenVsock()
                                                                 : listener.ListenTcp();
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
      (address.ss_family != AF_UNIX && address.ss_family != AF_INET && address.ss_family != AF_INET6 &&
       address.ss_family != AF_VSOCK)) {
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
  if (address.ss_family == AF_VSOCK) {
    target_.kind = Target::Kind::kVsock;
    target_.cid = reinterpret_cast<const sockaddr_vm&>(address).svm_cid;
    target_.port = reinterpret_cast<const sockaddr_vm&>(address).svm_port;
    if (target_.cid == VMADDR_CID_ANY) target_.cid = OwnCid();
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

absl::Status Listener::ListenVsock() {
  UniqueFd fd(socket(AF_VSOCK, kSocketFlags | SOCK_STREAM, 0));
  if (!fd.valid() && errno == EAFNOSUPPORT) {
    return absl::NotFoundError("this kernel has no vsock: run modprobe vsock as root, or serve nbd+unix:///?socket=PATH");
  }
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = target_.cid;
  address.svm_port = target_.port == 0 ? VMADDR_PORT_ANY : target_.port;
  socklen_t length = sizeof(address);
  if (fd.get() < 0 || bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
      listen(fd.get(), SOMAXCONN) != 0 || getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    const int error = errno;
    absl::Status status = StatusFromErrno(error, absl::StrCat("listening on ", target_.Uri()));
    if (error == EADDRINUSE) return absl::AlreadyExistsError(status.message());
    if (error == EADDRNOTAVAIL) {
      return absl::NotFoundError(absl::StrCat(status.message(), ": ", target_.cid, " is no CID of this machine; leave it out"));
    }
    return status;
  }
  target_.port = address.svm_port;
  if (target_.cid == Target::kAnyCid) target_.cid = OwnCid();
  fds_.push_back(std::move(fd));
  return absl::OkStatus();
}

absl::Status CheckStandardInput() {
  sockaddr_storage peer{};
  socklen_t length = sizeof(peer);
  int type = 0;
  socklen_t type_length = sizeof(type);
  if (getpeername(STDIN_FILENO, reinterpret_cast<sockaddr*>(&peer), &length) == 0 &&
      getsockopt(STDIN_FILENO, SOL_SOCKET, SO_TYPE, &type, &type_length) == 0 && type == SOCK_STREAM) {
    return absl::OkStatus();
  }
  struct stat about {};
  fstat(STDIN_FILENO, &about);
  const char* const what = isatty(STDIN_FILENO) != 0 ? "a terminal"
                           : S_ISFIFO(about.st_mode) ? "a pipe"
                           : S_ISSOCK(about.st_mode) ? "a socket that is not connected to a client by a stream"
                                                     : "no socket";
  return absl::InvalidArgumentError(
      absl::StrCat("the target - is for programs that start a server for one client, as inetd does, connected to its standard "
                   "input; here that is ",
                   what, ": give nbd+unix:///?socket=PATH, or no target at all"));
}

absl::StatusOr<UniqueFd> TakeStandardInput() {
  if (absl::Status status = CheckStandardInput(); !status.ok()) return status;
  UniqueFd client(fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!client.valid() || !null.valid()) return StatusFromErrno(errno, "taking standard input");
  fcntl(client.get(), F_SETFL, fcntl(client.get(), F_GETFL) & ~O_NONBLOCK);
  struct stat socket, other;
  fstat(client.get(), &socket);
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    const bool same = fstat(fd, &other) == 0 && other.st_dev == socket.st_dev && other.st_ino == socket.st_ino;
    if (same) dup2(null.get(), fd);
  }
  return client;
}

}  // namespace buse
