// SPDX-License-Identifier: Apache-2.0

#include "buse/kernel.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/nbd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <bit>
#include <cassert>
#include <cerrno>
#include <functional>
#include <future>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/types/optional.h"
#include "buse/kernel_netlink.h"
#include "buse/signals.h"
#include "buse/status.h"

namespace buse {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr seconds kSizeWait{5};      // until an attached device shows its size
constexpr seconds kOpenWait{2};      // while another program, such as udev, looks at a free device
constexpr seconds kStallWait{10};    // without any answer from the server
constexpr seconds kInFlightWait{5};  // until what is in flight is answered
constexpr seconds kFreeWait{3};      // until a disconnected device is free
constexpr seconds kOthersWait{1};    // while others, who disconnected it, finish
constexpr milliseconds kPoll{5};
// The kernel's "never" means 30 s once there are several connections: then it drops the connection of the slow request and
// sends the request to the next one, until none is left. So it is told a time instead. Its count of ticks must fit 32 bits.
constexpr seconds kAsGoodAsNever{24 * 60 * 60};
// Before the backend's name, in what the kernel keeps of it: the flags, which the kernel does not show.
constexpr absl::string_view kBackendPrefix = "buse flags=0x";

seconds RequestTimeout(const KernelAttachment::Options& options) {
  if (options.request_timeout.count() > 0) return options.request_timeout;
  return options.sockets.size() > 1 ? kAsGoodAsNever : seconds(0);
}

std::string BackendText(uint16_t flags, absl::string_view backend) {
  return absl::StrFormat("%s%x %s", kBackendPrefix, flags, backend);
}

bool ParseBackendText(absl::string_view text, uint32_t& flags, absl::string_view& backend) {
  if (!absl::ConsumePrefix(&text, kBackendPrefix)) return false;
  const size_t space = text.find(' ');
  if (space == absl::string_view::npos || !absl::SimpleHexAtoi(text.substr(0, space), &flags)) return false;
  backend = text.substr(space + 1);
  return true;
}

// ---- Detaching, of one's own attachment or of another's.

absl::Status WriteBack(const std::string& path) {
  assert(!ServesKernelRequests());
  absl::Status status;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  // BLKFLSBUF syncs the file system that is mounted on the device; fsync sends the flush.
  if (fd < 0 || ::ioctl(fd, BLKFLSBUF, 0) != 0 || ::fsync(fd) != 0) {
    status = StatusFromErrno(errno, absl::StrCat("writing back what the kernel has cached of ", path));
  }
  if (fd >= 0) ::close(fd);
  return status;
}

// Asks the kernel to end the connections of the device. Those who serve them see that they close.
absl::Status Disconnect(const KernelDevice& device) {
  int error = 0;
  if (NetlinkReachable()) {
    error = NetlinkDisconnect(device.index());
  } else {
    const int fd = ::open(device.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0 || ::ioctl(fd, NBD_DISCONNECT) != 0 || ::ioctl(fd, NBD_CLEAR_SOCK) != 0) error = errno;
    if (fd >= 0) ::close(fd);
  }
  return error == 0 ? absl::OkStatus() : StatusFromErrno(error, absl::StrCat("disconnecting ", device.path()));
}

struct Disconnected {
  absl::Status written;       // whether the page cache reached the server
  absl::Status disconnected;  // whether the kernel took the order
};

// Writing back runs on a thread of its own, so that a server that answers nothing can be given up: disconnecting ends it then.
// `keep_waiting` knows better than the clock that the server is at work.
Disconnected WriteBackAndDisconnect(const KernelDevice& device, seconds patience, const std::function<bool()>& keep_waiting) {
  std::future<absl::Status> write_back;
  {
    const SignalBlock block;
    write_back = std::async(std::launch::async, WriteBack, device.path());
  }
  bool answering = true;
  uint64_t completed = device.completed();
  for (auto last = steady_clock::now(); answering && write_back.wait_for(kPoll) != std::future_status::ready;) {
    const uint64_t now_completed = device.completed();
    if (std::exchange(completed, now_completed) != now_completed) last = steady_clock::now();
    const bool at_work = keep_waiting();
    answering = at_work || steady_clock::now() - last < patience;
  }
  Disconnected result;
  if (answering) {
    result.written = write_back.get();
    if (result.written.ok()) WaitUntil([&] { return device.NothingInFlight(); }, kInFlightWait);
  } else {
    result.written = absl::DeadlineExceededError(absl::StrCat(device.path(), ": no request was answered for ", patience.count(),
                                                              " s, so what the kernel had cached could not be written back"));
  }
  result.disconnected = Disconnect(device);
  return result;  // having waited for the thread
}

absl::Status WaitUntilFree(const KernelDevice& device) {
  if (WaitUntil([&] { return device.IsFree(); }, kFreeWait)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      device.path(), " is disconnected, but still mounted or open in some program: it is free when that has ended"));
}

// ---- Attaching.

absl::Status CheckOptions(const KernelAttachment::Options& options) {
  const uint32_t page = static_cast<uint32_t>(::sysconf(_SC_PAGESIZE));
  if (!std::has_single_bit(options.block_size) || options.block_size < 512 || options.block_size > page) {
    return absl::InvalidArgumentError(
        absl::StrCat("a block size of ", options.block_size, ": the kernel takes a power of two from 512 to ", page));
  }
  if (options.size == 0 || options.size > uint64_t{std::numeric_limits<int64_t>::max()}) {
    return absl::InvalidArgumentError(absl::StrCat("a size of ", options.size, " bytes: the kernel takes 1 to 2^63 - 1"));
  }
  if (options.size % options.block_size != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a size of ", options.size, " bytes is no multiple of the block size ",
                                                   options.block_size, ", so the kernel would cut off the last ",
                                                   options.size % options.block_size, " bytes"));
  }
  if (options.sockets.empty()) return absl::InvalidArgumentError("the kernel needs at least one socket");
  if (options.sockets.size() > 1 && (options.transmission_flags & NBD_FLAG_CAN_MULTI_CONN) == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.sockets.size(), " connections need a server that can have several (NBD_FLAG_CAN_MULTI_CONN)"));
  }
  return absl::OkStatus();
}

// Closes the kernel's ends of connections: those that the kernel took it holds itself.
class ClosingSockets {
 public:
  explicit ClosingSockets(const std::vector<int>& sockets) : sockets_(sockets) {}
  ClosingSockets(const ClosingSockets&) = delete;
  ClosingSockets& operator=(const ClosingSockets&) = delete;
  ~ClosingSockets() {
    for (int socket : sockets_) ::close(socket);
  }

 private:
  const std::vector<int>& sockets_;
};

}  // namespace

absl::Status CheckKernelDevice(absl::string_view path) {
  const bool any = path == kAnyKernelDevice;
  const absl::StatusOr<KernelDevice> device = any ? KernelDevice::FindFree() : KernelDevice::Find(path);
  if (!device.ok()) return device.status();
  if (absl::Status status = KernelDevice::CheckPrivilege(path); !status.ok()) return status;
  return any || device->IsFree() ? absl::OkStatus() : device->InUse();
}

absl::StatusOr<bool> DisconnectKernelDevice(absl::string_view path, seconds patience) {
  const absl::StatusOr<KernelDevice> device = KernelDevice::Find(path);
  if (!device.ok()) return device.status();
  if (absl::Status status = KernelDevice::CheckPrivilege(path); !status.ok()) return status;
  if (device->IsFree()) return false;
  const Disconnected result = WriteBackAndDisconnect(*device, patience, [] { return false; });
  if (!result.disconnected.ok()) return result.disconnected;
  if (absl::Status status = WaitUntilFree(*device); !status.ok()) return status;
  return true;
}

absl::StatusOr<std::unique_ptr<KernelAttachment>> KernelAttachment::Attach(const Options& options) {
  const ClosingSockets closing(options.sockets);
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  if (absl::Status status = CheckKernelDevice(options.device); !status.ok()) return status;
  const bool any = options.device == kAnyKernelDevice;
  absl::StatusOr<KernelDevice> device = any ? KernelDevice::FindFree() : KernelDevice::Find(options.device);
  for (;;) {
    if (!device.ok()) return device.status();
    std::unique_ptr<KernelAttachment> self(new KernelAttachment(*device, options));
    const bool by_ioctl = options.use_ioctl || !NetlinkReachable();
    absl::Status status = by_ioctl ? self->AttachByIoctl(options) : self->AttachByNetlink(options);
    if (status.ok()) status = self->WaitUntilAttached();
    if (status.ok()) {
      self->device_.TuneQueue();
      self->device_.TellUdev();
      return self;
    }
    // Somebody else was faster.
    if (!any || !absl::IsAlreadyExists(status)) return status;
    device = KernelDevice::FindFree(device->index() + 1);
  }
}

absl::Status KernelAttachment::AttachByNetlink(const Options& options) {
  backend_ = BackendText(options.transmission_flags, options.backend);
  request_timeout_ = RequestTimeout(options);
  for (const auto end = steady_clock::now() + kOpenWait;; std::this_thread::sleep_for(kPoll)) {
    const int error = NetlinkConnect(device_.index(), {.size = options.size,
                                                       .block_size = options.block_size,
                                                       .flags = options.transmission_flags,
                                                       .request_timeout = request_timeout_,
                                                       .dead_timeout = options.dead_timeout,
                                                       .backend = backend_,
                                                       .sockets = options.sockets});
    if (error == 0) return absl::OkStatus();
    if (error != EBUSY) return StatusFromErrno(error, absl::StrCat("attaching ", path(), ": the kernel's log may say more"));
    if (!device_.IsFree()) return device_.InUse();
    if (steady_clock::now() >= end || options.device == kAnyKernelDevice) {
      return absl::AlreadyExistsError(absl::StrCat(path(), " is open in another program: end it, or take another device"));
    }
  }
}

absl::Status KernelAttachment::AttachByIoctl(const Options& options) {
  const auto failed = [&](int error, absl::string_view what) {
    return error == EBUSY ? device_.InUse() : StatusFromErrno(error, absl::StrCat("attaching ", path(), ": ", what));
  };
  control_ = ::open(path().c_str(), O_RDONLY | O_CLOEXEC);
  if (control_ < 0) return failed(errno, "open");
  // The sockets come first: who sees a size may read, and must then be served.
  for (int socket : options.sockets) {
    if (::ioctl(control_, NBD_SET_SOCK, socket) == 0) continue;
    const int error = errno;
    if (socket == options.sockets.front()) ::close(std::exchange(control_, -1));  // others may be attaching: clear nothing
    return failed(error, "NBD_SET_SOCK");
  }
  const unsigned long timeout = static_cast<unsigned long>(RequestTimeout(options).count());
  if (::ioctl(control_, NBD_SET_BLKSIZE, static_cast<unsigned long>(options.block_size)) != 0 ||
      ::ioctl(control_, NBD_SET_SIZE_BLOCKS, static_cast<unsigned long>(options.size / options.block_size)) != 0 ||
      ::ioctl(control_, NBD_SET_FLAGS, static_cast<unsigned long>(options.transmission_flags)) != 0 ||
      (timeout > 0 && ::ioctl(control_, NBD_SET_TIMEOUT, timeout) != 0)) {
    return failed(errno, "setting size, flags and timeout");
  }
  const SignalBlock block;
  runner_ = std::thread([this] {
    if (::ioctl(control_, NBD_DO_IT) != 0) error_ = errno;
    ended_ = true;
  });
  return absl::OkStatus();
}

absl::Status KernelAttachment::WaitUntilAttached() {
  const bool appeared = WaitUntil([&] { return device_.size() == size_ || ended_; }, kSizeWait);
  pid_ = device_.pid();
  if (ended_)
    return StatusFromErrno(error_ != 0 ? error_.load() : EPIPE, absl::StrCat("attaching ", path(), ": NBD_DO_IT ended"));
  if (appeared) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("attaching ", path(), ": after ", kSizeWait.count(), " s it has ", device_.size(), " bytes, not ", size_));
}

// ---- Taking over.

absl::StatusOr<std::unique_ptr<KernelAttachment>> KernelAttachment::TakeOver(const Options& options) {
  const absl::StatusOr<KernelDevice> device = KernelDevice::Find(options.device);
  if (!device.ok()) return device.status();
  if (absl::Status status = KernelDevice::CheckPrivilege(options.device); !status.ok()) return status;
  std::unique_ptr<KernelAttachment> self(new KernelAttachment(*device, options));
  self->detached_ = true;  // not ours until all is checked
  self->pid_ = device->pid();
  if (self->pid_.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(options.device, " is not attached, so there is nothing to take over"));
  }
  if (absl::Status status = self->CheckBackend(options); !status.ok()) return status;
  if (device->size() != options.size) {
    return absl::InvalidArgumentError(absl::StrCat(options.device, " has ", device->size(),
                                                   " bytes, but what is to be served in its place has ", options.size,
                                                   ": give it the same size first, and resize it once it is served"));
  }
  if (device->block_size() < options.block_size) {
    return absl::InvalidArgumentError(absl::StrCat(options.device, " has blocks of ", device->block_size(),
                                                   " bytes, but what is to be served in its place needs blocks of ",
                                                   options.block_size));
  }
  self->request_timeout_ = options.request_timeout;
  self->detached_ = false;
  return self;
}

std::vector<KernelDevice> KernelAttachment::AttachedFor(absl::string_view backend) {
  std::vector<KernelDevice> found;
  for (KernelDevice& device : KernelDevice::All()) {
    uint32_t flags = 0;
    absl::string_view its_backend;
    const absl::optional<std::string> text = device.backend();
    if (text.has_value() && ParseBackendText(*text, flags, its_backend) && its_backend == backend) {
      found.push_back(std::move(device));
    }
  }
  return found;
}

absl::Status KernelAttachment::CheckBackend(const Options& options) {
  const absl::optional<std::string> attached = device_.backend();
  backend_.clear();
  if (!attached.has_value()) return absl::OkStatus();  // a kernel that does not keep it
  absl::string_view backend;
  uint32_t flags = 0;
  if (!ParseBackendText(*attached, flags, backend)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path(), " was attached by another program, \"", *attached, "\", so it cannot be taken over"));
  }
  if (backend != options.backend) {
    return absl::InvalidArgumentError(absl::StrCat(path(), " was attached for \"", backend, "\", and not for \"",
                                                   options.backend,
                                                   "\": give the same command line, or the first as --backend"));
  }
  if (const uint32_t missing = flags & ~uint32_t{options.transmission_flags}; missing != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s was attached with the transmission flags 0x%x, of which this stack lacks 0x%x: the kernel would go "
                        "on using what they "
                        "stand for",
                        path(), flags, missing));
  }
  backend_ = *attached;
  return absl::OkStatus();
}

absl::Status KernelAttachment::Reconnect(const std::vector<int>& sockets, seconds request_timeout) {
  const ClosingSockets closing(sockets);
  const int error =
      NetlinkReconfigure(device_.index(), {.request_timeout = request_timeout, .backend = backend_, .sockets = sockets});
  if (error != 0) return StatusFromErrno(error, absl::StrCat("reconnecting ", path(), ": the kernel's log may say more"));
  request_timeout_ = request_timeout;
  return absl::OkStatus();
}

absl::Status KernelAttachment::Resize(uint64_t size) {
  if (by_ioctl()) {
    return absl::UnimplementedError(
        absl::StrCat(path(), " was attached by ioctl: only what was attached by netlink can be resized"));
  }
  if (const int error = NetlinkReconfigure(device_.index(), {.size = size, .backend = backend_}); error != 0) {
    return StatusFromErrno(error, absl::StrCat("resizing ", path(), " to ", size, " bytes"));
  }
  size_ = size;
  if (WaitUntil([&] { return device_.size() == size_; }, kSizeWait)) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("resizing ", path(), ": it has ", device_.size(), " bytes, not ", size));
}

bool KernelAttachment::IsOurs() const { return !pid_.empty() && device_.pid() == pid_; }

bool KernelAttachment::IsAttached() const { return IsOurs() && device_.size() == size_; }

// ---- The end.

void KernelAttachment::EndIoctl() {
  if (control_ < 0) return;
  ::ioctl(control_, NBD_CLEAR_SOCK);
  if (runner_.joinable()) runner_.join();
  ::close(std::exchange(control_, -1));
}

absl::Status KernelAttachment::Detach(bool connected, const std::function<bool()>& keep_waiting) {
  if (std::exchange(detached_, true)) return absl::OkStatus();
  Disconnected result;
  if (!connected) WaitUntil([&] { return !IsOurs() || ended_; }, kOthersWait);
  const bool ours = IsOurs();
  if (ours && connected) {
    result = WriteBackAndDisconnect(device_, kStallWait, keep_waiting);
  } else if (ours && !ended_) {
    result.disconnected = Disconnect(device_);
  }
  EndIoctl();
  absl::Status free = ours ? WaitUntilFree(device_) : absl::OkStatus();
  if (!result.disconnected.ok()) return result.disconnected;
  return result.written.ok() ? free : result.written;
}

KernelAttachment::~KernelAttachment() { Detach().IgnoreError(); }

}  // namespace buse
