// SPDX-License-Identifier: Apache-2.0
//
// Attaching connected sockets to the kernel's nbd driver, so that a device appears as /dev/nbd0: through netlink, or where that
// does not reach (or on request) through the older ioctls. Needs root and Linux 4.12 or later; for a device that outlives its
// server, netlink and Linux 5.7.
//
// Threads: these calls make the kernel read from and write to the device, and wait for it. They belong on a thread that serves
// none of its requests; other threads must be serving until Detach has returned.

#ifndef BUSE_KERNEL_H_
#define BUSE_KERNEL_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "buse/kernel_device.h"

namespace buse {

// Whether `path` is an nbd device that Attach could take now, or kAnyKernelDevice.
//   kNotFound          no nbd in this kernel, no such device, or not a whole nbd device
//   kPermissionDenied  not root
//   kAlreadyExists     in use: it has a process, a size, requests in flight or holders
absl::Status CheckKernelDevice(absl::string_view path);

// Frees the nbd device `path`, whoever attached it: what remains when a server was killed. What is in the page cache is written
// back first if the server still answers, for which it has `patience`; what cannot be is lost. OK(false): it was free already.
//   kNotFound, kPermissionDenied  as CheckKernelDevice
//   kFailedPrecondition           disconnected, but still mounted or open, so not free yet
absl::StatusOr<bool> DisconnectKernelDevice(absl::string_view path, std::chrono::seconds patience = std::chrono::seconds(10));

// An nbd device that serves what is behind sockets.
class KernelAttachment {
 public:
  struct Options {
    std::string device = "/dev/nbd0";  // kAnyKernelDevice: one that is free
    uint64_t size = 0;                 // bytes, a multiple of block_size and not 0
    uint32_t block_size = 512;         // a power of two, 512 to the page size: the least that the kernel reads or writes
    uint16_t transmission_flags = 0;
    // Several need NBD_FLAG_CAN_MULTI_CONN. The call that takes these options owns them, also on failure; they should have
    // been opened with SOCK_CLOEXEC.
    std::vector<int> sockets;
    // Through ioctls the device ends with the process: if that is killed, requests in flight fail at once and the device is
    // free. Through netlink it stays until DisconnectKernelDevice, or until another server takes it over.
    bool use_ioctl = false;
    // A request that takes longer is taken for lost: its connection is dead, and the request is sent again on another one, or
    // on one that Reconnect brings. Through ioctls the device is lost with it. 0: as good as never.
    std::chrono::seconds request_timeout{0};
    // While every connection is dead, requests wait so long for Reconnect. Then they fail.
    std::chrono::seconds dead_timeout{0};
    // Names what is served, on one line of at most 500 bytes: who takes the device over must give the same.
    std::string backend;
  };

  // When it returns, the device has its size; its partitions are found when it is next opened.
  //   kInvalidArgument  the options contradict each other, or the driver refused them
  //   kNotFound, kPermissionDenied, kAlreadyExists  as CheckKernelDevice
  static absl::StatusOr<std::unique_ptr<KernelAttachment>> Attach(const Options& options);

  // The device as another server attached it by netlink, which no longer serves it. `options.sockets` must be empty: Reconnect
  // brings them, unless the other one's are handed over.
  //   kNotFound, kPermissionDenied  as CheckKernelDevice
  //   kInvalidArgument              it was attached for something else: another backend, size, or less of what the kernel uses
  //   kFailedPrecondition           nobody attached it
  static absl::StatusOr<std::unique_ptr<KernelAttachment>> TakeOver(const Options& options);

  // The devices that Attach attached for `backend`, whether or not somebody serves them.
  static std::vector<KernelDevice> AttachedFor(absl::string_view backend);

  KernelAttachment(const KernelAttachment&) = delete;
  KernelAttachment& operator=(const KernelAttachment&) = delete;
  ~KernelAttachment();  // Detach, its status dropped

  const std::string& path() const { return device_.path(); }
  const std::string& name() const { return device_.name(); }
  uint64_t block_size() const { return device_.block_size(); }
  bool by_ioctl() const { return control_ >= 0; }
  std::chrono::seconds request_timeout() const { return request_timeout_; }

  // Not if it was disconnected from outside; it may then serve others.
  bool IsAttached() const;

  // Gives the kernel sockets in the place of dead connections, and a new request timeout. It may have taken any number of them:
  // those that it did not are closed when this returns, and nobody else holds this end of those that it did.
  absl::Status Reconnect(const std::vector<int>& sockets, std::chrono::seconds request_timeout);

  // Has the kernel see a new size, which must be served by then, or still if it shrinks. Not by ioctl.
  absl::Status Resize(uint64_t size);

  // Leaves the device to another server.
  void Release() { detached_ = true; }

  // Writes back the page cache and what is mounted on the device, waits for what is in flight, disconnects, and waits until the
  // device is free. `connected`: whether a connection is alive; if none is, as after `nbd-client -d`, only what is left of
  // that. A server that answers nothing for ten seconds is given up, unless `keep_waiting`, which is asked every few
  // milliseconds, says that it is at work. The second call does nothing.
  //   kFailedPrecondition  detached, but still mounted or open, so not free yet
  //   any other            detached, but what was in the page cache could not be written back
  absl::Status Detach(
      bool connected = true, const std::function<bool()>& keep_waiting = [] { return false; });

 private:
  KernelAttachment(KernelDevice device, const Options& options)
      : device_(std::move(device)), size_(options.size), backend_(options.backend), request_timeout_(options.request_timeout) {}

  absl::Status AttachByNetlink(const Options& options);
  absl::Status AttachByIoctl(const Options& options);
  absl::Status WaitUntilAttached();
  absl::Status CheckBackend(const Options& options);
  bool IsOurs() const;
  void EndIoctl();

  KernelDevice device_;
  uint64_t size_;
  std::string backend_;  // as the kernel has it
  std::chrono::seconds request_timeout_;
  std::string pid_;  // what the kernel calls the attaching thread: tells this attachment from a later one of others
  bool detached_ = false;

  // With ioctls only: the kernel runs the device in a call of ours that returns when the device is disconnected.
  int control_ = -1;
  std::thread runner_;
  std::atomic<bool> ended_ = false;
  std::atomic<int> error_ = 0;  // errno of that call, once ended_
};

}  // namespace buse

#endif  // BUSE_KERNEL_H_
