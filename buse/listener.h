// SPDX-License-Identifier: Apache-2.0
//
// Listening sockets for a target, and the URI under which clients find them; and the one client on standard input.

#ifndef BUSE_LISTENER_H_
#define BUSE_LISTENER_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "buse/io.h"
#include "buse/target.h"

namespace buse {

// Movable. Removes its Unix socket when destroyed.
class Listener {
 public:
  // Listens on a Unix socket, on every address that the host's name has, or on vsock. Port 0 takes a free one. A Unix socket
  // that a dead server left behind is replaced. Errors: kAlreadyExists where somebody listens, or where the path is no socket;
  // kNotFound for an unknown host, a missing folder, or where the kernel has no vsock; else as the system says.
  static absl::StatusOr<Listener> Listen(const Target& target);

  // Takes the listening sockets that a service manager left to this process, as systemd does (sd_listen_fds(3): from descriptor 3 on,
  // LISTEN_FDS of them, where LISTEN_PID is this process), or finds none. They stay the manager's: no socket is removed at the
  // end. To be called once; forgets the variables, so that no child takes them for its own.
  // Errors: kInvalidArgument where one is no listening stream socket, Unix, TCP or vsock.
  static absl::StatusOr<absl::optional<Listener>> Inherit();

  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&&) = delete;
  ~Listener();

  // Non-blocking descriptors to poll and accept from.
  const std::vector<UniqueFd>& fds() const { return fds_; }
  // What clients connect to, with the port that was really taken; of several sockets left to the process, the first.
  std::string uri() const { return target_.Uri(); }
  // That URI says so.
  void PromiseTls() { target_.tls = true; }

 private:
  explicit Listener(const Target& target) : target_(target) {}
  absl::Status ListenUnix();
  absl::Status ListenTcp();
  absl::Status ListenVsock();
  absl::Status Adopt(int fd);

  Target target_;
  std::vector<UniqueFd> fds_;
  ino_t inode_ = 0;  // of the Unix socket
};

// What standard input is connected to, if that is a client: so inetd starts a server, and libnbd's nbd_connect_command(3). From
// then on /dev/null stands in its place, and in that of the other standard descriptors where they are the same socket. Errors:
// kInvalidArgument, which says what it is. CheckStandardInput tells the same and changes nothing.
absl::StatusOr<UniqueFd> TakeStandardInput();
absl::Status CheckStandardInput();

}  // namespace buse

#endif  // BUSE_LISTENER_H_
