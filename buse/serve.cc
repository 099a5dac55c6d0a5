// SPDX-License-Identifier: Apache-2.0

#include "buse/serve.h"

#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "buse/clients.h"
#include "buse/io.h"
#include "buse/kernel.h"
#include "buse/listener.h"
#include "buse/signals.h"
#include "buse/size.h"
#include "buse/status.h"
#include "buse/target.h"

namespace buse {
namespace {

using std::chrono::steady_clock;

// How long what clients asked for may take when the server ends, their reading of the answers included.
constexpr std::chrono::seconds kGrace(10);
// After this long, an administrator who waits for a device to be detached is told why.
constexpr std::chrono::seconds kTellAfter(3);

void Announce(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

enum class Event { kSignal, kClientEnded, kNewClient, kTimeout };

class Loop {
 public:
  Loop(const Service& service, const ServeOptions& options) : service_(service), options_(options) {}

  absl::Status ServeSocket(const Target& target);
  absl::Status ServeKernel(const Target& target);

  // Whether it got as far as serving.
  bool served() const { return served_; }

 private:
  Event Wait(const std::vector<UniqueFd>* listening, int timeout_ms, int& ready_fd);
  void Accept(int listening_fd);
  absl::Status Drain();
  absl::Status StartKernelConnections(std::vector<int>& kernel_ends);
  std::string KernelHint(const std::string& device) const;
  void LockMemory() const;
  absl::Status Detach(KernelAttachment& attachment, const std::string& device);

  const Service& service_;
  const ServeOptions& options_;
  StopSignals signals_;
  bool served_ = false;
  // Set when a kernel connection ended otherwise than by the kernel's word.
  std::atomic<bool> broken_ = false;
  // Last: its threads use the rest.
  Clients clients_;
};

Event Loop::Wait(const std::vector<UniqueFd>* listening, int timeout_ms, int& ready_fd) {
  std::vector<pollfd> fds = {{signals_.fd(), POLLIN, 0}, {clients_.ended_fd(), POLLIN, 0}};
  if (listening != nullptr) {
    for (const UniqueFd& fd : *listening) fds.push_back({fd.get(), POLLIN, 0});
  }
  while (poll(fds.data(), fds.size(), timeout_ms) < 0 && errno == EINTR) {
  }
  if (fds[0].revents != 0 && signals_.Take()) return Event::kSignal;
  if (fds[1].revents != 0) return Event::kClientEnded;
  for (size_t i = 2; i < fds.size(); ++i) {
    if (fds[i].revents == 0) continue;
    ready_fd = fds[i].fd;
    return Event::kNewClient;
  }
  return Event::kTimeout;
}

void Loop::Accept(int listening_fd) {
  UniqueFd socket(accept4(listening_fd, nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket.valid()) {
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
      service_.log.Say(StatusFromErrno(errno, "accepting a client").message());
      std::this_thread::sleep_for(std::chrono::milliseconds(100));  // the client stays in the queue
    }
    return;
  }
  const int on = 1;
  // These do nothing on a Unix socket. A client whose machine is gone must not hold its place for ever.
  setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  setsockopt(socket.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
  absl::Status started = clients_.Start(std::move(socket), [this](int fd) {
    if (options_.verbose) Say(service_.program, absl::StrCat("client ", fd, " connected"));
    absl::Status status = service_.serve_client(fd);
    if (options_.verbose) {
      Say(service_.program, absl::StrCat("client ", fd, " ended", status.ok() ? "" : ": ", status.message()));
    } else if (!status.ok() && status.code() != absl::StatusCode::kUnavailable) {  // which is a connection that broke
      service_.log.Say(absl::StrCat("client ", fd, " ended: ", status.message()));
    }
  });
  if (!started.ok()) service_.log.Say(started.message());
}

absl::Status Loop::ServeSocket(const Target& target) {
  absl::StatusOr<Listener> listener = Listener::Listen(target);
  if (!listener.ok()) return listener.status();
  const std::string uri = listener->uri();
  served_ = true;
  Announce(absl::StrCat(service_.program, ": ", FormatSize(service_.about.size), " on ", uri, "\nTry:  nbdinfo '", uri,
                        "'\n      nbdcopy '", uri, "' copy.img\n      qemu-img info '", uri, "'\nEnd it with Ctrl-C.\n"));
  for (;;) {
    int ready_fd = -1;
    const bool room = clients_.count() < options_.max_clients;
    const Event event = Wait(room ? &listener->fds() : nullptr, -1, ready_fd);
    if (event == Event::kSignal) return Drain();
    if (event == Event::kClientEnded) clients_.Reap();
    if (event == Event::kNewClient) Accept(ready_fd);
  }
}

absl::Status Loop::Drain() {
  clients_.StopReceiving();
  const auto end = steady_clock::now() + kGrace;
  for (clients_.Reap(); clients_.count() > 0; clients_.Reap()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - steady_clock::now()).count();
    int ready_fd = -1;
    if (left > 0 && Wait(nullptr, left, ready_fd) == Event::kClientEnded) continue;
    Say(service_.program,
        absl::StrCat(clients_.count(), " clients are still busy, or do not read their answers: disconnecting"));
    break;
  }
  clients_.Disconnect();
  return absl::OkStatus();
}

absl::Status Loop::StartKernelConnections(std::vector<int>& kernel_ends) {
  uint64_t connections = options_.connections;
  if (connections == 0) {
    connections = service_.one_call_at_a_time ? 1 : std::clamp<uint64_t>(std::thread::hardware_concurrency(), 1, 4);
  }
  for (uint64_t i = 0; i < connections; ++i) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
      return StatusFromErrno(errno, "making a pair of sockets");
    kernel_ends.push_back(ends[1]);
    absl::Status started = clients_.Start(UniqueFd(ends[0]), [this](int fd) {
      // Memory that this thread asks for must not be freed by writing to this very device. Needs a privilege; without it the
      // device works, but for that.
      prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
      if (absl::Status status = service_.serve_kernel(fd); !status.ok()) {
        Say(service_.program, absl::StrCat("the kernel's connection ended: ", status.message()));
        broken_ = true;
      }
    });
    if (!started.ok()) return started;
  }
  return absl::OkStatus();
}

std::string Loop::KernelHint(const std::string& device) const {
  if ((service_.about.flags & nbd::kFlagReadOnly) != 0) return absl::StrCat("Try:  mount -o ro ", device, " /mnt\n");
  return absl::StrCat("Try:  mkfs.ext4 ", device, " && mount ", device, " /mnt\n");
}

// What serves a device must not wait for memory that the kernel would free by writing to that device.
void Loop::LockMemory() const {
  if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0) return;
  Say(service_.program, absl::StrCat(StatusFromErrno(errno, "locking memory").message(),
                                     ": when memory is short, the device may hang; raise the limit with ulimit -l"));
}

absl::Status Loop::Detach(KernelAttachment& attachment, const std::string& device) {
  const int before = signals_.count();
  const auto start = steady_clock::now();
  bool said = false;
  return attachment.Detach([&] {
    if (!clients_.AnyRuns() || signals_.count() > before) return false;
    if (!said && steady_clock::now() - start > kTellAfter) {
      said = true;
      Say(service_.program, absl::StrCat(device, ": writing back what the kernel has cached; signal once more to give it up"));
    }
    return true;
  });
}

absl::Status Loop::ServeKernel(const Target& target) {
  if (absl::Status status = CheckKernelDevice(target.path); !status.ok()) return status;
  KernelAttachment::Options attach = {.device = target.path,
                                      .size = service_.about.size,
                                      .block_size = static_cast<uint32_t>(options_.block_size),
                                      .transmission_flags = service_.about.flags};
  attach.use_ioctl = options_.ioctl;
  if (attach.block_size == 0) attach.block_size = std::max<uint32_t>(512, service_.about.min_block);
  if (attach.block_size < service_.about.min_block) {
    return absl::InvalidArgumentError(absl::StrCat("block-size: ", attach.block_size, " is below the least of this stack, ",
                                                   service_.about.min_block, " bytes"));
  }
  if (absl::Status started = StartKernelConnections(attach.sockets); !started.ok()) {
    for (int socket : attach.sockets) close(socket);
    return started;
  }
  absl::StatusOr<std::unique_ptr<KernelAttachment>> attachment = KernelAttachment::Attach(attach);
  if (!attachment.ok()) return attachment.status();
  served_ = true;
  LockMemory();
  Announce(absl::StrCat(service_.program, ": ", FormatSize(service_.about.size), " on ", target.path, "\n",
                        KernelHint(target.path), "End it with Ctrl-C, or: nbd-client -d ", target.path, "\n"));
  // Until a signal, or until the kernel has ended every connection.
  while (clients_.count() > 0) {
    int ready_fd = -1;
    if (Wait(nullptr, -1, ready_fd) == Event::kSignal) break;
    clients_.Reap();
  }
  absl::Status detached = Detach(**attachment, target.path);
  if (detached.ok() && broken_) return absl::InternalError(absl::StrCat(target.path, " was lost before it was disconnected"));
  return detached;
}

constexpr char kExitCodes[] =
    "0  ended as asked, all data flushed\n"
    "1  I/O trouble, or anything not listed here\n"
    "2  wrong usage\n"
    "3  no such device, file or host, or no nbd in the kernel\n"
    "4  the device, file or socket is in use\n";

}  // namespace

ExitCode ExitCodeFor(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
      return kExitUsage;
    case absl::StatusCode::kNotFound:
      return kExitNoSuchDevice;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
      return kExitBusy;
    default:
      return kExitFailure;
  }
}

void Say(const std::string& program, absl::string_view message) {
  std::string line = absl::StrCat(program, ": ", message);
  // A pipe that polls as writable takes this much without waiting.
  line.resize(std::min<size_t>(line.size(), PIPE_BUF - 1));
  line += '\n';
  pollfd ready = {STDERR_FILENO, POLLOUT, 0};
  if (poll(&ready, 1, 0) != 1 || write(STDERR_FILENO, line.data(), line.size()) < 0) return;  // nobody reads
}

void LimitedLog::Say(absl::string_view message) {
  int unsaid = 0;
  {
    std::lock_guard lock(mutex_);
    const auto now = steady_clock::now();
    if (now - second_ >= std::chrono::seconds(1)) {
      unsaid = lines_ - kLinesPerSecond;
      second_ = now;
      lines_ = 0;
    }
    if (++lines_ > kLinesPerSecond) return;
  }
  if (unsaid > 0) buse::Say(program_, absl::StrCat(unsaid, " more lines like these"));
  buse::Say(program_, message);
}

void EnterCallersFolder() {
  const char* folder = std::getenv("BUILD_WORKING_DIRECTORY");
  if (folder != nullptr && chdir(folder) != 0) std::perror(folder);
}

absl::Status CheckTarget(const ServeOptions& options) {
  const uint64_t block = options.block_size;
  if (block != 0 && ((block & (block - 1)) != 0 || block < 512)) {
    return absl::InvalidArgumentError(absl::StrCat("--block-size: ", block, " is none of 512, 1024, 2048 and 4096"));
  }
  if (options.target.empty()) return absl::OkStatus();
  absl::StatusOr<Target> target = ParseTarget(options.target);
  if (!target.ok()) return target.status();
  return target->kind == Target::Kind::kKernelDevice ? CheckKernelDevice(target->path) : absl::OkStatus();
}

absl::Status Serve(Service& service, const ServeOptions& options) {
  Target target;
  if (options.target.empty()) {
    const char* folder = std::getenv("XDG_RUNTIME_DIR");
    target = {.kind = Target::Kind::kUnixSocket,
              .path = absl::StrCat(folder != nullptr && access(folder, W_OK) == 0 ? folder : "/tmp", "/", service.program, ".",
                                   getpid(), ".sock")};
  } else {
    absl::StatusOr<Target> parsed = ParseTarget(options.target);
    if (!parsed.ok()) return parsed.status();
    target = *std::move(parsed);
  }
  service.about.name = target.export_name;
  absl::Status status;
  bool served = false;
  {
    Loop loop(service, options);
    status = target.kind == Target::Kind::kKernelDevice ? loop.ServeKernel(target) : loop.ServeSocket(target);
    served = loop.served();
  }
  if (!served) return status;
  // Even after trouble: what was written before it deserves to last.
  absl::Status flushed = service.flush();
  if (!flushed.ok()) return absl::InternalError(absl::StrCat("flushing the device at the end: ", flushed.ToString()));
  if (status.ok() || status.code() == absl::StatusCode::kFailedPrecondition) return status;
  return absl::InternalError(status.message());
}

Program ProgramOf(const char* argv0, const std::vector<LayerInfo>& layers) {
  const absl::string_view path(argv0);
  const std::string name(path.substr(path.rfind('/') + 1));
  std::string arguments;  // what the layers need, by example
  for (const LayerInfo& layer : layers) {
    for (const OptionInfo& option : layer.options) {
      if (option.required) absl::StrAppend(&arguments, " ", option.unit == Unit::kBytes ? "128M" : "disk.img");
    }
  }
  return {.name = name,
          .summary = "Serves a block device to the kernel or to NBD clients.",
          .examples = absl::StrCat(name, arguments, "\n", name, arguments, " /dev/nbd0\n", name, arguments,
                                   " 'nbd+unix:///?socket=/tmp/disk.sock'\n", name, arguments, " nbd://localhost/disk\n", name,
                                   " --disconnect /dev/nbd0\n"),
          .exit_codes = kExitCodes};
}

absl::optional<std::string> DisconnectRequested(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (argument == "--disconnect" && i + 1 < argc) return std::string(argv[i + 1]);
    if (absl::ConsumePrefix(&argument, "--disconnect=")) return std::string(argument);
  }
  return absl::nullopt;
}

absl::Status Disconnect(const std::string& program, const std::string& device) {
  absl::StatusOr<bool> was_attached = DisconnectKernelDevice(device);
  if (!was_attached.ok()) return was_attached.status();
  Announce(absl::StrCat(program, ": ", device, *was_attached ? " is free again\n" : " was free already\n"));
  return absl::OkStatus();
}

int ExitWith(const std::string& program, const absl::Status& status) {
  if (!status.ok()) Say(program, status.message());
  return ExitCodeFor(status);
}

}  // namespace buse
