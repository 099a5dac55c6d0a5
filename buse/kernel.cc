// SPDX-License-Identifier: Apache-2.0

#include "buse/kernel.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/major.h>
#include <linux/nbd-netlink.h>
#include <linux/nbd.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
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
constexpr uint64_t kMaxSectorsKb = 4096;  // the default of 128 costs large requests dearly

// ---- What sysfs says.

std::string ReadAttribute(absl::string_view name, absl::string_view attribute) {
  std::ifstream file(absl::StrCat("/sys/block/", name, "/", attribute));
  std::stringstream text;
  text << file.rdbuf();
  return std::string(absl::StripAsciiWhitespace(text.str()));
}

uint64_t ReadNumber(absl::string_view name, absl::string_view attribute) {
  uint64_t number = 0;
  return absl::SimpleAtoi(ReadAttribute(name, attribute), &number) ? number : 0;
}

uint64_t SizeOf(absl::string_view name) { return ReadNumber(name, "size") * 512; }

bool NothingInFlight(absl::string_view name) {
  uint64_t reads = 0, writes = 0;
  std::istringstream(ReadAttribute(name, "inflight")) >> reads >> writes;
  return reads == 0 && writes == 0;
}

bool HasHolders(absl::string_view name) {
  std::error_code error;
  std::filesystem::directory_iterator holders(absl::StrCat("/sys/block/", name, "/holders"), error);
  return !error && holders != std::filesystem::directory_iterator();
}

bool IsFree(absl::string_view name) {
  return ReadAttribute(name, "pid").empty() && SizeOf(name) == 0 && NothingInFlight(name) && !HasHolders(name);
}

// How many requests the device has completed.
uint64_t Completed(absl::string_view name) {
  std::istringstream fields(ReadAttribute(name, "stat"));
  uint64_t sum = 0, value = 0;
  for (int field = 1; fields >> value; ++field) {
    if (field == 1 || field == 5 || field == 12 || field == 16) sum += value;  // reads, writes, discards, flushes
  }
  return sum;
}

bool WaitUntil(const std::function<bool()>& condition, milliseconds limit) {
  for (const auto end = steady_clock::now() + limit; !condition();) {
    if (steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(kPoll);
  }
  return true;
}

// ---- Which device a path names.

struct KernelDevice {
  std::string name;  // "nbd0"
  uint32_t index = 0;
};

absl::StatusOr<KernelDevice> Identify(absl::string_view path) {
  const auto exists = [](const std::string& file) { return ::access(file.c_str(), F_OK) == 0; };
  const bool have_nbd = exists("/sys/module/nbd") || exists("/sys/block/nbd0");
  const auto no_nbd = absl::NotFoundError(
      "no nbd in this kernel: run `modprobe nbd` as root, or serve on a socket: nbd+unix:///?socket=/tmp/x.sock");
  struct stat info;
  if (::stat(std::string(path).c_str(), &info) != 0) {
    if (errno != ENOENT) return StatusFromErrno(errno, path);
    if (!have_nbd) return no_nbd;
    uint32_t count = 0;
    const bool hint = absl::StartsWith(path, "/dev/nbd") &&
                      absl::SimpleAtoi(ReadAttribute("../module/nbd/parameters", "nbds_max"), &count) && count > 0;
    return absl::NotFoundError(absl::StrCat(
        "no such device: ", path, hint ? absl::StrCat(" (nbds_max is ", count, ": the last is /dev/nbd", count - 1, ")") : ""));
  }
  if (!S_ISBLK(info.st_mode) || major(info.st_rdev) != NBD_MAJOR) {
    return absl::NotFoundError(absl::StrCat(path, " is not an nbd device: name one of /dev/nbd0, /dev/nbd1, …"));
  }
  if (!have_nbd) return no_nbd;
  // The node may have any name; sysfs knows the device by its number.
  const std::string link = absl::StrCat("/sys/dev/block/", major(info.st_rdev), ":", minor(info.st_rdev));
  std::error_code error;
  KernelDevice device{.name = std::filesystem::read_symlink(link, error).filename().string()};
  if (error) return absl::NotFoundError(absl::StrCat("no such device: the kernel has none behind ", path));
  if (exists(link + "/partition")) {
    return absl::NotFoundError(absl::StrCat(path, " is a partition: name the whole device"));
  }
  if (!absl::SimpleAtoi(absl::string_view(device.name).substr(3), &device.index)) {
    return absl::NotFoundError(absl::StrCat(path, " is not an nbd device: the kernel calls it ", device.name));
  }
  return device;
}

absl::Status CheckPrivilege(absl::string_view path) {
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  if (::syscall(SYS_capget, &header, data) == 0 && (data[0].effective & (1u << CAP_SYS_ADMIN)) != 0) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat(path, " needs root (CAP_SYS_ADMIN)"));
}

absl::Status InUse(absl::string_view path, absl::string_view name) {
  const std::string pid = ReadAttribute(name, "pid");
  return absl::AlreadyExistsError(absl::StrCat(path, " is in use", pid.empty() ? "" : " (pid ", pid, pid.empty() ? "" : ")",
                                               ": take another, or free it with --disconnect ", path));
}

// ---- The netlink side.

// One request to the kernel's nbd family. The kernel's answer is an errno value.
class NetlinkRequest {
 public:
  explicit NetlinkRequest(uint8_t command) : socket_(nl_socket_alloc()), message_(nlmsg_alloc()) {
    if (socket_ == nullptr || message_ == nullptr || genl_connect(socket_) < 0) return;
    const int family = genl_ctrl_resolve(socket_, NBD_GENL_FAMILY_NAME);
    if (family < 0) return;
    reachable_ = genlmsg_put(message_, NL_AUTO_PORT, NL_AUTO_SEQ, family, 0, 0, command, NBD_GENL_VERSION) != nullptr;
  }
  NetlinkRequest(const NetlinkRequest&) = delete;
  NetlinkRequest& operator=(const NetlinkRequest&) = delete;
  ~NetlinkRequest() {
    nlmsg_free(message_);
    nl_socket_free(socket_);
  }

  // Whether the kernel has the family. It is not shown to other network namespaces than the first.
  bool reachable() const { return reachable_; }
  nl_msg* message() { return message_; }

  // 0 or the kernel's errno.
  int Send() {
    int error = 0;
    nl_socket_modify_err_cb(
        socket_, NL_CB_CUSTOM,
        [](sockaddr_nl*, nlmsgerr* answer, void* out) -> int {
          *static_cast<int*>(out) = -answer->error;
          return NL_STOP;
        },
        &error);
    const int result = nl_send_sync(socket_, std::exchange(message_, nullptr));  // frees the message
    return error != 0 ? error : result < 0 ? EIO : 0;
  }

 private:
  nl_sock* socket_;
  nl_msg* message_;
  bool reachable_ = false;
};

// 0 leaves it to the kernel.
uint64_t TimeoutSeconds(const KernelAttachment::Options& options) {
  if (options.request_timeout.count() > 0) return static_cast<uint64_t>(options.request_timeout.count());
  return options.sockets.size() > 1 ? kAsGoodAsNever.count() : 0;
}

void PutConnect(nl_msg* message, uint32_t index, const KernelAttachment::Options& options) {
  nla_put_u32(message, NBD_ATTR_INDEX, index);
  nla_put_u64(message, NBD_ATTR_SIZE_BYTES, options.size);
  nla_put_u64(message, NBD_ATTR_BLOCK_SIZE_BYTES, options.block_size);
  nla_put_u64(message, NBD_ATTR_SERVER_FLAGS, options.transmission_flags);
  if (const uint64_t timeout = TimeoutSeconds(options); timeout > 0) nla_put_u64(message, NBD_ATTR_TIMEOUT, timeout);
  nlattr* sockets = nla_nest_start(message, NBD_ATTR_SOCKETS);
  for (int socket : options.sockets) {
    nlattr* item = nla_nest_start(message, NBD_SOCK_ITEM);
    nla_put_u32(message, NBD_SOCK_FD, socket);
    nla_nest_end(message, item);
  }
  nla_nest_end(message, sockets);
}

// ---- Detaching, of one's own attachment or of another's.

absl::Status WriteBack(const std::string& path) {
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
absl::Status Disconnect(const std::string& path, uint32_t index) {
  int error = 0;
  if (NetlinkRequest request(NBD_CMD_DISCONNECT); request.reachable()) {
    nla_put_u32(request.message(), NBD_ATTR_INDEX, index);
    error = request.Send();
  } else {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0 || ::ioctl(fd, NBD_DISCONNECT) != 0 || ::ioctl(fd, NBD_CLEAR_SOCK) != 0) error = errno;
    if (fd >= 0) ::close(fd);
  }
  return error == 0 ? absl::OkStatus() : StatusFromErrno(error, absl::StrCat("disconnecting ", path));
}

struct Disconnected {
  absl::Status written;       // whether the page cache reached the server
  absl::Status disconnected;  // whether the kernel took the order
};

// Writing back runs on a thread of its own, so that a server that answers nothing can be given up: disconnecting ends it then.
// `keep_waiting` knows better than the clock that the server is at work.
Disconnected WriteBackAndDisconnect(const std::string& path, const std::string& name, uint32_t index,
                                    const std::function<bool()>& keep_waiting) {
  std::future<absl::Status> write_back;
  {
    const SignalBlock block;
    write_back = std::async(std::launch::async, WriteBack, path);
  }
  bool answering = true;
  uint64_t completed = Completed(name);
  for (auto last = steady_clock::now(); answering && write_back.wait_for(kPoll) != std::future_status::ready;) {
    const uint64_t now_completed = Completed(name);
    if (std::exchange(completed, now_completed) != now_completed) last = steady_clock::now();
    answering = steady_clock::now() - last < kStallWait || keep_waiting();
  }
  Disconnected result;
  if (answering) {
    result.written = write_back.get();
    if (result.written.ok()) WaitUntil([&] { return NothingInFlight(name); }, kInFlightWait);
  } else {
    result.written = absl::DeadlineExceededError(absl::StrCat(path, ": no request was answered for ", kStallWait.count(),
                                                              " s, so what the kernel had cached could not be written back"));
  }
  result.disconnected = Disconnect(path, index);
  return result;  // having waited for the thread
}

absl::Status WaitUntilFree(const std::string& path, const std::string& name) {
  if (WaitUntil([&] { return IsFree(name); }, kFreeWait)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(path, " is disconnected, but still mounted or open in some program: it is free when that has ended"));
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

}  // namespace

absl::Status CheckKernelDevice(absl::string_view path) {
  const absl::StatusOr<KernelDevice> device = Identify(path);
  if (!device.ok()) return device.status();
  if (absl::Status status = CheckPrivilege(path); !status.ok()) return status;
  return IsFree(device->name) ? absl::OkStatus() : InUse(path, device->name);
}

absl::StatusOr<bool> DisconnectKernelDevice(absl::string_view path) {
  const absl::StatusOr<KernelDevice> device = Identify(path);
  if (!device.ok()) return device.status();
  if (absl::Status status = CheckPrivilege(path); !status.ok()) return status;
  if (IsFree(device->name)) return false;
  const std::string file(path);
  const Disconnected result = WriteBackAndDisconnect(file, device->name, device->index, [] { return false; });
  if (!result.disconnected.ok()) return result.disconnected;
  if (absl::Status status = WaitUntilFree(file, device->name); !status.ok()) return status;
  return true;
}

absl::StatusOr<std::unique_ptr<KernelAttachment>> KernelAttachment::Attach(const Options& options) {
  std::unique_ptr<KernelAttachment> self(new KernelAttachment(options.device, options.sockets));
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  if (absl::Status status = CheckKernelDevice(options.device); !status.ok()) return status;
  const absl::StatusOr<KernelDevice> device = Identify(options.device);
  if (!device.ok()) return device.status();
  self->name_ = device->name;
  self->index_ = device->index;

  const bool by_ioctl = options.use_ioctl || !NetlinkRequest(NBD_CMD_CONNECT).reachable();
  absl::Status status = by_ioctl ? self->AttachByIoctl(options) : self->AttachByNetlink(options);
  if (status.ok()) status = self->WaitUntilAttached(options.size);
  if (!status.ok()) return status;

  const uint64_t max = std::min(kMaxSectorsKb, ReadNumber(device->name, "queue/max_hw_sectors_kb"));
  std::ofstream(absl::StrCat("/sys/block/", device->name, "/queue/max_sectors_kb")) << max;
  return self;
}

absl::Status KernelAttachment::AttachByNetlink(const Options& options) {
  for (const auto end = steady_clock::now() + kOpenWait;; std::this_thread::sleep_for(kPoll)) {
    NetlinkRequest request(NBD_CMD_CONNECT);
    PutConnect(request.message(), index_, options);
    const int error = request.Send();
    if (error == 0) return absl::OkStatus();
    if (error != EBUSY) return StatusFromErrno(error, absl::StrCat("attaching ", path_, ": the kernel's log may say more"));
    if (!IsFree(name_)) return InUse(path_, name_);
    if (steady_clock::now() >= end) {
      return absl::AlreadyExistsError(absl::StrCat(path_, " is open in another program: end it, or take another device"));
    }
  }
}

absl::Status KernelAttachment::AttachByIoctl(const Options& options) {
  const auto failed = [&](int error, absl::string_view what) {
    return error == EBUSY ? InUse(path_, name_) : StatusFromErrno(error, absl::StrCat("attaching ", path_, ": ", what));
  };
  control_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (control_ < 0) return failed(errno, "open");
  // The sockets come first: who sees a size may read, and must then be served.
  for (int socket : options.sockets) {
    if (::ioctl(control_, NBD_SET_SOCK, socket) == 0) continue;
    const int error = errno;
    if (socket == options.sockets.front()) ::close(std::exchange(control_, -1));  // others may be attaching: clear nothing
    return failed(error, "NBD_SET_SOCK");
  }
  const unsigned long timeout = TimeoutSeconds(options);
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

absl::Status KernelAttachment::WaitUntilAttached(uint64_t size) {
  const bool appeared = WaitUntil([&] { return SizeOf(name_) == size || ended_; }, kSizeWait);
  pid_ = ReadAttribute(name_, "pid");
  if (ended_)
    return StatusFromErrno(error_ != 0 ? error_.load() : EPIPE, absl::StrCat("attaching ", path_, ": NBD_DO_IT ended"));
  if (appeared) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("attaching ", path_, ": after ", kSizeWait.count(), " s it has ", SizeOf(name_), " bytes, not ", size));
}

// Not if it was disconnected from outside and is free again; it may then serve others.
bool KernelAttachment::IsOurs() const { return !pid_.empty() && ReadAttribute(name_, "pid") == pid_; }

// Not if the kernel or the server has closed every connection.
bool KernelAttachment::IsConnected() const {
  return std::any_of(sockets_.begin(), sockets_.end(), [](int socket) {
    pollfd query = {.fd = socket, .events = POLLRDHUP, .revents = 0};
    return ::poll(&query, 1, 0) == 0;
  });
}

void KernelAttachment::EndIoctl() {
  if (control_ < 0) return;
  ::ioctl(control_, NBD_CLEAR_SOCK);
  if (runner_.joinable()) runner_.join();
  ::close(std::exchange(control_, -1));
}

absl::Status KernelAttachment::Detach(const std::function<bool()>& keep_waiting) {
  if (std::exchange(detached_, true)) return absl::OkStatus();
  Disconnected result;
  const bool connected = IsConnected();
  if (!connected) WaitUntil([&] { return !IsOurs() || ended_; }, kOthersWait);
  const bool ours = IsOurs();
  if (ours && connected) {
    result = WriteBackAndDisconnect(path_, name_, index_, keep_waiting);
  } else if (ours && !ended_) {
    result.disconnected = Disconnect(path_, index_);
  }
  EndIoctl();
  for (int socket : std::exchange(sockets_, {})) ::close(socket);
  absl::Status free = ours ? WaitUntilFree(path_, name_) : absl::OkStatus();
  if (!result.disconnected.ok()) return result.disconnected;
  return result.written.ok() ? free : result.written;
}

KernelAttachment::~KernelAttachment() { Detach().IgnoreError(); }

}  // namespace buse
