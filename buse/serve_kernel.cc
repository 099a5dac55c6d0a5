// SPDX-License-Identifier: Apache-2.0

#include "buse/serve_kernel.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <thread>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "buse/bequest.h"
#include "buse/kernel_device.h"
#include "buse/nbd.h"
#include "buse/service_manager.h"
#include "buse/size.h"
#include "buse/status.h"

namespace buse {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr seconds kRequestTimeout(10);  // at first: it doubles each time that the device is slower
constexpr seconds kMaxRequestTimeout(24 * 3600);
constexpr seconds kResumeWait(10);       // until the kernel has seen that the server before is dead
constexpr milliseconds kOtherWait(300);  // the same for all connections, once it has for one
constexpr seconds kReconnectWait(5);     // the same for one's own, on a machine that may be short of CPUs
constexpr milliseconds kPoll(10);
constexpr seconds kControlWait(5);  // for a program to say what it wants
constexpr seconds kPauseWait(10);   // for requests that are under way
// What either side may have under way on a connection, with the system's bookkeeping: several large requests, or one side waits
// for the other in the middle of each. The system's own default is 208 KiB.
constexpr int kSocketBuffer = 1 << 20;
// After this long, an administrator who waits for a device to be detached is told why.
constexpr seconds kTellAfter(3);

// The server's ends and the kernel's of connections to it.
struct Pairs {
  std::vector<UniqueFd> ours;
  std::vector<int> kernels;  // closed by who takes them
};

// As far as the system lets it.
void EnlargeSendBuffer(int socket) {
  const int half = kSocketBuffer / 2;  // the system doubles it
  if (setsockopt(socket, SOL_SOCKET, SO_SNDBUFFORCE, &half, sizeof(half)) == 0) return;
  setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &half, sizeof(half));
}

absl::StatusOr<Pairs> MakePairs(size_t count) {
  Pairs pairs;
  for (size_t i = 0; i < count; ++i) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
      absl::Status status = StatusFromErrno(errno, "making a pair of sockets");
      for (int end : pairs.kernels) close(end);
      return status;
    }
    for (int end : ends) EnlargeSendBuffer(end);
    pairs.ours.emplace_back(ends[0]);
    pairs.kernels.push_back(ends[1]);
  }
  return pairs;
}

bool IsHungUp(int socket) {
  pollfd query = {socket, POLLRDHUP, 0};
  return poll(&query, 1, 0) == 1;
}

}  // namespace

KernelServer::KernelServer(const Service& service, const ServeOptions& options)
    : service_(service), options_(options), connections_(service.serve_kernel) {}

absl::StatusOr<KernelAttachment::Options> KernelServer::AttachOptions(const Target& target) const {
  KernelAttachment::Options attach = {.device = target.path,
                                      .size = service_.about.size,
                                      .block_size = static_cast<uint32_t>(options_.block_size),
                                      .transmission_flags = service_.about.flags,
                                      .use_ioctl = options_.ioctl,
                                      .request_timeout = seconds(options_.request_timeout),
                                      .dead_timeout = seconds(options_.dead_timeout),
                                      .backend = options_.backend};
  if (attach.request_timeout.count() == 0 && !options_.ioctl) attach.request_timeout = kRequestTimeout;
  if (attach.block_size == 0) attach.block_size = std::max<uint32_t>(512, service_.about.min_block);
  if (attach.block_size < service_.about.min_block) {
    return absl::InvalidArgumentError(absl::StrCat("block-size: ", attach.block_size, " is below the least of this stack, ",
                                                   service_.about.min_block, " bytes"));
  }
  return attach;
}

absl::Status KernelServer::Attach(KernelAttachment::Options options) {
  absl::StatusOr<Pairs> pairs = MakePairs(options_.ConnectionCount(service_.one_call_at_a_time));
  if (!pairs.ok()) return pairs.status();
  options.sockets = pairs->kernels;
  for (UniqueFd& socket : pairs->ours) {
    if (absl::Status started = connections_.Add(std::move(socket)); !started.ok()) {
      for (int kernels : options.sockets) close(kernels);
      return started;
    }
  }
  absl::StatusOr<std::unique_ptr<KernelAttachment>> attachment = KernelAttachment::Attach(options);
  if (!attachment.ok()) return attachment.status();
  attachment_ = *std::move(attachment);
  return absl::OkStatus();
}

// Offers the kernel `wanted` connections in the place of dead ones, and serves those that it takes. Returns their number.
absl::StatusOr<size_t> KernelServer::Connect(size_t wanted, seconds request_timeout) {
  absl::StatusOr<Pairs> pairs = MakePairs(wanted);
  if (!pairs.ok()) return pairs.status();
  if (absl::Status status = attachment_->Reconnect(pairs->kernels, request_timeout); !status.ok()) return status;
  size_t taken = 0;
  for (UniqueFd& socket : pairs->ours) {
    if (IsHungUp(socket.get())) continue;
    if (absl::Status started = connections_.Add(std::move(socket)); !started.ok()) return started;
    ++taken;
  }
  return taken;
}

// From a server that handed it over.
absl::Status KernelServer::Adopt(KernelAttachment::Options options, Estate& estate) {
  options.request_timeout = estate.request_timeout;
  absl::StatusOr<std::unique_ptr<KernelAttachment>> attachment = KernelAttachment::TakeOver(options);
  if (!attachment.ok()) return attachment.status();
  attachment_ = *std::move(attachment);
  absl::Status status = connections_.Pause(milliseconds(0));  // none is there yet
  for (UniqueFd& socket : estate.sockets) {
    if (status.ok()) status = connections_.Add(std::move(socket));
  }
  if (status.ok()) {
    Listen();  // first: the one before takes its own socket away when it ends
    status = service_.takeover->Confirm();
  }
  if (status.ok()) {
    connections_.Resume();
    return status;
  }
  // All is still the other one's.
  connections_.Release();
  attachment_->Release();
  return status;
}

// From one that was killed.
absl::Status KernelServer::Resume(const KernelAttachment::Options& options) {
  absl::StatusOr<std::unique_ptr<KernelAttachment>> attachment = KernelAttachment::TakeOver(options);
  if (!attachment.ok()) return attachment.status();
  attachment_ = *std::move(attachment);
  const size_t wanted = options_.ConnectionCount(service_.one_call_at_a_time);
  auto end = steady_clock::now() + kResumeWait;
  for (size_t taken = 0;;) {
    absl::StatusOr<size_t> more = Connect(wanted - taken, options.request_timeout);
    if (!more.ok()) {
      attachment_->Release();
      return more.status();
    }
    if (taken == 0 && *more > 0) end = steady_clock::now() + kOtherWait;
    taken += *more;
    if (taken == wanted) return absl::OkStatus();
    if (steady_clock::now() < end) {
      std::this_thread::sleep_for(kPoll);
      continue;
    }
    if (taken > 0) return absl::OkStatus();  // it was attached with fewer
    attachment_->Release();
    return absl::AlreadyExistsError(
        absl::StrCat(options.device, " is still connected to another server: end that one, or give --replace"));
  }
}

bool KernelServer::Reconnect(size_t dropped) {
  const seconds before = attachment_->request_timeout();
  const seconds after = std::min(2 * before, kMaxRequestTimeout);
  absl::Status status;
  const auto end = steady_clock::now() + kReconnectWait;
  for (;;) {
    const absl::StatusOr<size_t> taken = Connect(dropped, after);
    if (!taken.ok()) {
      status = taken.status();
      break;
    }
    dropped -= *taken;
    if (dropped == 0 && attachment_->IsAttached()) {
      service_.log.Say(absl::StrCat(attachment_->path(), ": no answer for ", before.count(),
                                    " s, so the kernel dropped a connection; it has a new one and allows ", after.count(),
                                    " s from now on"));
      return true;
    }
    if (steady_clock::now() >= end || !attachment_->IsAttached()) break;
    std::this_thread::sleep_for(kPoll);
  }
  Say(service_.program, absl::StrCat(attachment_->path(), ": a dropped connection could not be replaced",
                                     status.ok() ? "" : ": ", status.message()));
  return false;
}

// Sees to connections that have ended.
void KernelServer::Maintain() {
  const KernelConnections::News news = connections_.Take();
  if (news.dropped > 0 && !connections_.said_disconnect()) {
    const bool can_reconnect = !attachment_->by_ioctl() && !broken_ && attachment_->IsAttached();
    if (!can_reconnect || !Reconnect(news.dropped)) broken_ = true;
  }
  if (broken_ && !news.why.ok()) {
    Say(service_.program, absl::StrCat("the kernel's connection ended: ", news.why.message()));
  }
}

// From now on others find this server.
void KernelServer::Listen() {
  absl::StatusOr<ControlSocket> control = ControlSocket::Listen(attachment_->name());
  control_.reset();  // only now, so that the path is there all the time
  if (control.ok()) {
    control_.emplace(*std::move(control));
  } else {
    Say(service_.program, absl::StrCat(control.status().message(), ": --replace and resize will not reach this server"));
  }
}

// False: something else happened.
bool KernelServer::WaitForSignal() {
  std::vector<pollfd> fds = {{signals_.fd(), POLLIN, 0}, {control_.has_value() ? control_->fd() : -1, POLLIN, 0}};
  connections_.AppendPoll(fds);
  while (poll(fds.data(), fds.size(), -1) < 0 && errno == EINTR) {
  }
  if (fds[0].revents != 0 && signals_.Take()) return true;
  if (fds[1].revents != 0) Answer();
  return false;
}

// Whoever asked on the control socket.
void KernelServer::Answer() {
  absl::StatusOr<ControlChannel> channel = control_->Accept();
  if (!channel.ok()) return service_.log.Say(channel.status().message());
  const absl::StatusOr<ControlMessage> request = channel->Receive(kControlWait);
  if (!request.ok()) return;
  absl::string_view text = request->text;
  absl::Status status;
  if (text == kReplaceRequest) {
    status = HandOver(*channel);
  } else if (uint64_t size = 0; absl::ConsumePrefix(&text, kResizeRequest) && absl::SimpleAtoi(text, &size)) {
    status = Resize(size);
    if (status.ok()) status = channel->Send(kDone);
  } else {
    status = absl::UnimplementedError(absl::StrCat("this server does not understand \"", absl::CEscape(text), "\""));
  }
  if (status.ok()) return;
  Say(service_.program, absl::StrCat(absl::CEscape(request->text), ": ", status.message()));
  channel->SendError(status).IgnoreError();
}

// To whoever is to replace this server. Not OK: this one goes on, or the device is left without one.
absl::Status KernelServer::HandOver(ControlChannel& channel) {
  Maintain();
  Bequest bequest(service_, connections_, *attachment_, signals_, seconds(options_.dead_timeout));
  absl::Status status = bequest.Make(channel);
  if (bequest.closed()) {
    closed_ = true;
    broken_ = !status.ok();
  } else if (bequest.reopened()) {
    Listen();  // in case that the other one had come so far
  }
  return status;
}

absl::Status KernelServer::Resize(uint64_t size) {
  if (!service_.resize) return absl::UnimplementedError("this stack cannot change its size");
  const uint64_t before = service_.about.size;
  const uint64_t block = attachment_->block_size();
  if (size == 0 || size % block != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(size, " bytes: the size must be a multiple of the device's blocks of ", block));
  }
  // The kernel knows at no time of bytes that are not there.
  if (size < before) {
    if (absl::Status status = attachment_->Resize(size); !status.ok()) return status;
  }
  absl::Status status = connections_.Pause(kPauseWait);
  if (status.ok()) {
    status = service_.resize(size);
    connections_.Resume();
  }
  const uint64_t now = service_.about.size;
  if (now != before ? now > before : size < before) {
    absl::Status told = attachment_->Resize(now);
    if (status.ok()) status = told;
  }
  return status;
}

// What serves a device must not wait for memory that the kernel would free by writing to that device.
void KernelServer::LockMemory() const {
  if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0) return;
  Say(service_.program, absl::StrCat(StatusFromErrno(errno, "locking memory").message(),
                                     ": when memory is short, the device may hang; raise the limit with ulimit -l"));
}

void KernelServer::Announce() const {
  const std::string& device = attachment_->path();
  const bool read_only = (service_.about.flags & nbd::kFlagReadOnly) != 0;
  buse::Announce(options_, absl::StrCat(service_.program, ": ", FormatSize(service_.about.size), " on "), device,
                 absl::StrCat(read_only ? absl::StrCat("Try:  mount -o ro ", device, " /mnt\n")
                                        : absl::StrCat("Try:  mkfs.ext4 ", device, " && mount ", device, " /mnt\n"),
                              "End it with Ctrl-C, or: nbd-client -d ", device, "\n"));
}

absl::Status KernelServer::Detach() {
  if (!closed_) NotifyServiceManager("STOPPING=1").IgnoreError();
  const int before = signals_.count();
  const auto start = steady_clock::now();
  bool said = false;
  return attachment_->Detach(connections_.AnyConnected(), [&] {
    Maintain();
    if (!connections_.AnyRuns() || signals_.count() > before) return false;
    if (!said && steady_clock::now() - start > kTellAfter) {
      said = true;
      Say(service_.program,
          absl::StrCat(attachment_->path(), ": writing back what the kernel has cached; signal once more to give it up"));
    }
    return true;
  });
}

absl::Status KernelServer::Run(const Target& target) {
  absl::StatusOr<KernelAttachment::Options> attach = AttachOptions(target);
  if (!attach.ok()) return attach.status();
  LockMemory();
  // As the threads that serve: this one must be able to bring the kernel new connections.
  BecomeIoFlusher();
  absl::Status status;
  if (service_.takeover != nullptr && !service_.takeover->device().empty()) {
    attach->device = service_.takeover->device();
    Estate* estate = service_.takeover->estate();
    status = estate != nullptr ? Adopt(*attach, *estate) : Resume(*attach);
  } else {
    status = Attach(*attach);
  }
  if (!status.ok()) return status;
  served_ = true;
  if (!control_.has_value()) Listen();
  Announce();
  const auto taken_away = [&] { return broken_ && !attachment_->IsAttached(); };
  while (connections_.count() > 0 && !taken_away() && !WaitForSignal()) Maintain();
  const absl::Status detached = Detach();
  if (broken_) {
    return absl::InternalError(
        absl::StrCat(attachment_->path(), closed_ ? " is left without a server" : " was lost before it was disconnected"));
  }
  return detached;
}

}  // namespace buse
