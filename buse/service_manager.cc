// SPDX-License-Identifier: Apache-2.0

#include "buse/service_manager.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "buse/io.h"
#include "buse/status.h"

namespace buse {
namespace {

// Where the process waits that went to the background for this one.
int waiting = -1;

// Of a child that has ended, as a shell counts it.
int ExitCodeOf(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

absl::Status NotifyServiceManager(absl::string_view state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr) return absl::OkStatus();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const size_t length = std::strlen(path);
  if ((path[0] != '/' && path[0] != '@') || length >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("NOTIFY_SOCKET is \"", path,
                                                   "\", which is no Unix socket: it begins with / or @ and has at most ",
                                                   sizeof(address.sun_path) - 1, " bytes"));
  }
  std::memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';  // a name without a file
  const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const socklen_t size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
  if (!socket.valid() ||
      sendto(socket.get(), state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address), size) < 0) {
    return StatusFromErrno(errno, absl::StrCat("telling the service manager on ", path));
  }
  return absl::OkStatus();
}

absl::Status GoToBackground() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return StatusFromErrno(errno, "making a pipe");
  UniqueFd reading(ends[0]), writing(ends[1]);
  const pid_t child = fork();
  if (child < 0) return absl::UnavailableError(absl::StrCat("--fork: ", std::strerror(errno)));
  if (child == 0) {
    setsid();
    waiting = writing.release();
    return absl::OkStatus();
  }
  writing.reset();
  char serves;
  ssize_t n;
  do {
    n = read(reading.get(), &serves, 1);
  } while (n < 0 && errno == EINTR);
  _exit(n == 1 ? 0 : ExitCodeOf(child));
}

void TellThatItServes() {
  if (waiting < 0) return;
  // Whoever reads the output of the process that waited is to see its end.
  const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (null.valid()) {
    dup2(null.get(), STDIN_FILENO);
    dup2(null.get(), STDOUT_FILENO);
  }
  const UniqueFd to(std::exchange(waiting, -1));
  while (write(to.get(), "s", 1) < 0 && errno == EINTR) {
  }
}

}  // namespace buse
