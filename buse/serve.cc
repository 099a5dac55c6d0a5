// SPDX-License-Identifier: Apache-2.0

#include "buse/serve.h"

#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/types/optional.h"
#include "buse/clients.h"
#include "buse/control.h"
#include "buse/io.h"
#include "buse/kernel.h"
#include "buse/kernel_device.h"
#include "buse/listener.h"
#include "buse/serve_kernel.h"
#include "buse/service_manager.h"
#include "buse/signals.h"
#include "buse/size.h"
#include "buse/status.h"
#include "buse/takeover.h"
#include "buse/target.h"

namespace buse {
namespace {

// Of one client: its buffers (buse/buffers.h), and with them all else that grows with what it says.
uint64_t MemoryOfClient(uint64_t max_request) {
  return std::min<uint64_t>(max_request + (1 << 20), nbd::kMaxPayload) + (1 << 20);
}

using std::chrono::steady_clock;

// How long what clients asked for may take when the server ends, their reading of the answers included.
constexpr std::chrono::seconds kGrace(10);
constexpr std::chrono::seconds kResizeWait(60);
// For any answer of the server whose device is freed.
constexpr std::chrono::seconds kAliveWait(10);
constexpr std::chrono::seconds kDeadWait(1);  // it looks dead

enum class Event { kSignal, kClientEnded, kNewClient, kTimeout };

class Loop {
 public:
  Loop(const Service& service, const ServeOptions& options) : service_(service), options_(options) {}

  // Until a signal; then all that clients asked for is done.
  absl::Status Run(Listener listener);
  // Until the one client ends, or a signal.
  absl::Status RunFor(UniqueFd client);

 private:
  Event Wait(const std::vector<UniqueFd>* listening, int timeout_ms, int& ready_fd);
  void Accept(int listening_fd);
  void Start(UniqueFd socket);
  absl::Status Drain();

  const Service& service_;
  const ServeOptions& options_;
  StopSignals signals_;
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
  Start(std::move(socket));
}

void Loop::Start(UniqueFd socket) {
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

absl::Status Loop::Run(Listener listener) {
  const bool secured = service_.tls != nullptr && service_.tls->mode() == nbd::TlsMode::kRequire;
  if (secured) listener.PromiseTls();
  const std::string uri = listener.uri();
  const bool several = service_.exports > 1;
  const std::string what = several ? absl::StrCat(service_.exports, " exports") : FormatSize(service_.about.size);
  // As libnbd's tools take it; qemu's want more than a URI.
  const std::string clients_uri = secured ? service_.tls->UriForClients(uri) : uri;
  std::string advice = absl::StrCat("Try:  nbdinfo ", several ? "--list " : "", "'", clients_uri, "'\n");
  if (!several) absl::StrAppend(&advice, "      nbdcopy '", clients_uri, "' copy.img\n");
  if (!several && !secured) absl::StrAppend(&advice, "      qemu-img info '", uri, "'\n");
  Announce(options_, absl::StrCat(service_.program, ": ", what, " on "), uri, absl::StrCat(advice, "End it with Ctrl-C.\n"));
  for (;;) {
    int ready_fd = -1;
    const bool room = clients_.count() < options_.ClientsAtOnce();
    const Event event = Wait(room ? &listener.fds() : nullptr, -1, ready_fd);
    if (event == Event::kSignal) return Drain();
    if (event == Event::kClientEnded) clients_.Reap();
    if (event == Event::kNewClient) Accept(ready_fd);
  }
}

absl::Status Loop::RunFor(UniqueFd client) {
  Start(std::move(client));
  while (clients_.count() > 0) {
    int unused = -1;
    const Event event = Wait(nullptr, -1, unused);
    if (event == Event::kSignal) return Drain();
    if (event == Event::kClientEnded) clients_.Reap();
  }
  return absl::OkStatus();
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

// Where to serve if nothing is said.
Target OwnSocket(const std::string& program) {
  const char* folder = std::getenv("XDG_RUNTIME_DIR");
  Target target;
  target.kind = Target::Kind::kUnixSocket;
  target.path =
      absl::StrCat(folder != nullptr && access(folder, W_OK) == 0 ? folder : "/tmp", "/", program, ".", getpid(), ".sock");
  return target;
}

// The device that --disconnect names, if it is given.
absl::optional<std::string> DisconnectRequested(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (argument == "--disconnect" && i + 1 < argc) return std::string(argv[i + 1]);
    if (absl::ConsumePrefix(&argument, "--disconnect=")) return std::string(argument);
  }
  return absl::nullopt;
}

absl::Status Disconnect(const std::string& program, const std::string& device) {
  // Nobody may be there to answer what the page cache holds.
  const absl::StatusOr<KernelDevice> found = KernelDevice::Find(device);
  pid_t pid = 0;
  const bool dead = found.ok() && absl::SimpleAtoi(found->pid(), &pid) && kill(pid, 0) != 0 && errno == ESRCH &&
                    absl::IsNotFound(ControlChannel::Connect(found->name()).status());
  absl::StatusOr<bool> was_attached = DisconnectKernelDevice(device, dead ? kDeadWait : kAliveWait);
  if (!was_attached.ok()) return was_attached.status();
  std::printf("%s: %s%s", program.c_str(), device.c_str(), *was_attached ? " is free again\n" : " was free already\n");
  return absl::OkStatus();
}

absl::optional<absl::Status> ResizeRequested(const std::string& program, int argc, const char* const* argv) {
  if (argc < 2 || absl::string_view(argv[1]) != "resize") return absl::nullopt;
  if (argc != 4) return absl::InvalidArgumentError(absl::StrCat("write: ", program, " resize /dev/nbdN SIZE"));
  const std::string path = argv[2];
  const absl::StatusOr<uint64_t> size = ParseSize(argv[3]);
  if (!size.ok()) return size.status();
  const absl::StatusOr<KernelDevice> device = KernelDevice::Find(path);
  if (!device.ok()) return device.status();
  absl::StatusOr<ControlChannel> channel = ControlChannel::Connect(device->name());
  if (absl::IsNotFound(channel.status())) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is served by no program of this kind, so it cannot be resized"));
  }
  if (!channel.ok()) return channel.status();
  if (absl::Status status = channel->Send(absl::StrCat(kResizeRequest, *size)); !status.ok()) return status;
  const absl::StatusOr<ControlMessage> answer = channel->Receive(kResizeWait);
  if (!answer.ok()) return answer.status();
  if (absl::Status status = ControlChannel::ErrorIn(*answer); !status.ok()) return status;
  std::printf("%s: %s has %s now\n", program.c_str(), path.c_str(), FormatSize(*size).c_str());
  return absl::OkStatus();
}

constexpr char kExitCodes[] =
    "0  ended as asked, all data flushed\n"
    "1  I/O trouble, or anything not listed here\n"
    "2  wrong usage\n"
    "3  no such device, file or host, or no nbd or vsock in the kernel\n"
    "4  the device, file or socket is in use\n"
    "5  what the medium holds is damaged\n";

}  // namespace

void ServeOptions::Restrict(nbd::Export& about) const {
  about.max_payload = static_cast<uint32_t>(max_request);
  about.resize_limit = resize_limit;
  about.structured_replies = !no_structured_replies;
  about.meta_contexts = !no_meta_context;
  about.extended_headers = !no_extended_headers;
}

absl::StatusOr<std::unique_ptr<const TlsCredentials>> ServeOptions::LoadTls() const {
  TlsOptions asked = {.mode = tls, .certificates = tls_certificates, .psk = tls_psk, .verify_peer = tls_verify_peer};
  if (!target.empty()) {
    const absl::StatusOr<Target> parsed = ParseTarget(target);
    if (!parsed.ok()) return parsed.status();
    asked.promised = parsed->tls;
    const bool wanted = !tls_certificates.empty() || !tls_psk.empty() || tls_verify_peer || (!tls.empty() && tls != "off");
    if (wanted && parsed->kind == Target::Kind::kKernelDevice) {
      return absl::InvalidArgumentError(absl::StrCat("TLS is for NBD clients, and ", target,
                                                     " is served to this machine's kernel: leave --tls and its like out"));
    }
  }
  return TlsCredentials::Load(asked);
}

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
    case absl::StatusCode::kDataLoss:
      return kExitDamaged;
    default:
      return kExitFailure;
  }
}

absl::Status OpeningFailed(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) ? absl::InternalError(status.message()) : status;
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

uint64_t ServeOptions::MemoryOfClient() const { return (workers > 0 ? 2 : 1) * buse::MemoryOfClient(max_request); }

uint64_t ServeOptions::ClientsAtOnce() const {
  return max_memory == 0 ? max_clients : std::min(max_clients, max_memory / MemoryOfClient());
}

size_t ServeOptions::ConnectionCount(bool one_call_at_a_time) const {
  if (connections != 0) return connections;
  return one_call_at_a_time ? 1 : std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 4);
}

void Announce(const ServeOptions& options, const std::string& what, const std::string& where, const std::string& advice) {
  std::fputs(options.quiet ? absl::StrCat(where, "\n").c_str() : absl::StrCat(what, where, "\n", advice).c_str(), stdout);
  std::fflush(stdout);
  if (absl::Status told = NotifyServiceManager(absl::StrCat("READY=1\nSTATUS=serves on ", where)); !told.ok()) {
    std::fputs(absl::StrCat(told.message(), "\n").c_str(), stderr);
  }
  TellThatItServes();
}

void EnterCallersFolder() {
  const char* folder = std::getenv("BUILD_WORKING_DIRECTORY");
  if (folder != nullptr && chdir(folder) != 0) std::perror(folder);
}

bool ServesKernel(const ServeOptions& options) {
  const absl::StatusOr<Target> target = ParseTarget(options.target);
  return target.ok() && target->kind == Target::Kind::kKernelDevice;
}

absl::Status CheckTarget(const ServeOptions& options) {
  const uint64_t block = options.block_size;
  if (block != 0 && ((block & (block - 1)) != 0 || block < 512)) {
    return absl::InvalidArgumentError(absl::StrCat("--block-size: ", block, " is none of 512, 1024, 2048 and 4096"));
  }
  if (options.ClientsAtOnce() == 0) {
    return absl::InvalidArgumentError(absl::StrCat("--max-memory: ", options.max_memory, " is less than the ",
                                                   options.MemoryOfClient(),
                                                   " that one connection may need: raise it, or lower --max-request",
                                                   options.workers > 0 ? ", or give it no --workers" : ""));
  }
  if (absl::Status status = options.LoadTls().status(); !status.ok()) return status;
  if (options.target.empty()) return absl::OkStatus();
  absl::StatusOr<Target> target = ParseTarget(options.target);
  if (!target.ok()) return target.status();
  if (target->kind == Target::Kind::kStandardInput) return CheckStandardInput();
  if (target->kind != Target::Kind::kKernelDevice) return absl::OkStatus();
  if (options.resize_limit != 0) {
    return absl::InvalidArgumentError(absl::StrCat("--resize-limit is for NBD clients; ", target->path,
                                                   " is resized by the command \"resize\": leave the option out"));
  }
  if (options.mmap) {
    return absl::InvalidArgumentError(absl::StrCat("--mmap is for NBD clients; ", target->path,
                                                   " would send a read that fails again and again: leave the option out"));
  }
  return options.resume || options.replace ? absl::OkStatus() : CheckKernelDevice(target->path);
}

absl::Status Serve(Service& service, const ServeOptions& options) {
  absl::StatusOr<absl::optional<Listener>> inherited = Listener::Inherit();
  if (!inherited.ok()) return inherited.status();
  if (inherited->has_value() && !options.target.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the service manager left a socket, ", (*inherited)->uri(),
                                                   ", and the target ", options.target, " is given too: leave one out"));
  }
  absl::StatusOr<Target> target = options.target.empty() ? OwnSocket(service.program) : ParseTarget(options.target);
  if (!target.ok()) return target.status();
  if (!service.named) service.about.name = target->export_name;
  absl::Status status;
  bool served = false;
  if (target->kind == Target::Kind::kKernelDevice) {
    KernelServer server(service, options);
    status = server.Run(*target);
    served = server.must_flush();
  } else if (target->kind == Target::Kind::kStandardInput) {
    Loop loop(service, options);
    absl::StatusOr<UniqueFd> client = TakeStandardInput();
    if (!client.ok()) return client.status();
    status = loop.RunFor(*std::move(client));
    served = true;
  } else {
    Loop loop(service, options);
    absl::StatusOr<Listener> listener = inherited->has_value() ? *std::move(*inherited) : Listener::Listen(*target);
    if (!listener.ok()) return listener.status();
    status = loop.Run(*std::move(listener));
    served = true;
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
      if (!option.required) continue;
      absl::StrAppend(&arguments, " ",
                      option.unit == Unit::kBytes ? "128M"
                      : layer.of.empty()          ? "disk.img"
                                                  : layer.of + ".img");
    }
  }
  return {.name = name,
          .summary = "Serves a block device to the kernel or to NBD clients.",
          .examples = absl::StrCat(name, arguments, "\n", name, arguments, " /dev/nbd0\n", name, arguments,
                                   " 'nbd+unix:///?socket=/tmp/disk.sock'\n", name, arguments, " nbd://localhost/disk\n", name,
                                   arguments, " nbds://localhost --tls-psk keys.psk\n", name, " --disconnect /dev/nbd0\n"),
          .exit_codes = kExitCodes,
          .arguments = arguments};
}

absl::optional<int> RunWithoutStack(const std::string& program, int argc, const char* const* argv) {
  if (const absl::optional<std::string> device = DisconnectRequested(argc, argv)) {
    return ExitWith(program, Disconnect(program, *device));
  }
  if (const absl::optional<absl::Status> resized = ResizeRequested(program, argc, argv)) return ExitWith(program, *resized);
  return absl::nullopt;
}

std::string BackendOf(const std::vector<LayerInfo>& layers) {
  constexpr size_t kMax = 400;  // of the kernel's 500
  std::string text;
  for (const LayerInfo& layer : layers) {
    if (layer.family != Family::kLeaf || layer.depth == LayerInfo::kNoLayer) continue;
    absl::StrAppend(&text, text.empty() ? "" : " ", layer.name);
    for (const OptionInfo& option : layer.options) {
      const auto value = std::get_if<std::string*>(&option.value);
      if (option.positional && value != nullptr) absl::StrAppend(&text, " ", absl::CEscape(**value));
    }
  }
  // The end of a path says more than its beginning.
  return text.size() <= kMax ? text : absl::StrCat(text.substr(text.size() - kMax), " ", text.size());
}

int ExitWith(const std::string& program, const absl::Status& status) {
  if (!status.ok()) Say(program, status.message());
  return ExitCodeFor(status);
}

}  // namespace buse
