// SPDX-License-Identifier: Apache-2.0
//
// Attaching connected sockets to the kernel's nbd driver, so that a device appears as /dev/nbd0: through netlink, or where that
// does not reach (or on request) through the older ioctls. Needs root and Linux 4.12 or later.
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

namespace buse {

// Whether `path` is an nbd device that Attach could take now.
//   kNotFound          no nbd in this kernel, no such device, or not a whole nbd device
//   kPermissionDenied  not root
//   kAlreadyExists     in use: it has a process, a size, requests in flight or holders
absl::Status CheckKernelDevice(absl::string_view path);

// Frees the nbd device `path`, whoever attached it: what remains when a server was killed. What is in the page cache is written
// back first if the server still answers; what cannot be is lost. OK(false): it was free already.
//   kNotFound, kPermissionDenied  as CheckKernelDevice
//   kFailedPrecondition           disconnected, but still mounted or open, so not free yet
absl::StatusOr<bool> DisconnectKernelDevice(absl::string_view path);

// An nbd device that serves what is behind sockets.
class KernelAttachment {
 public:
  struct Options {
    std::string device = "/dev/nbd0";
    uint64_t size = 0;          // bytes, a multiple of block_size and not 0
    uint32_t block_size = 512;  // a power of two, 512 to the page size: the least that the kernel reads or writes
    uint16_t transmission_flags = 0;
    std::vector<int> sockets;  // several need NBD_FLAG_CAN_MULTI_CONN
    // Through ioctls the device ends with the process: if that is killed, requests in flight fail at once and the device is
    // free. Through netlink it stays, and they wait, until DisconnectKernelDevice.
    bool use_ioctl = false;
    // A request that takes longer fails, and its connection with it. 0: never.
    std::chrono::seconds request_timeout{0};
  };

  // Owns the sockets from now on, also on failure. They should have been opened with SOCK_CLOEXEC. When it returns, the device
  // has its size; its partitions are found when it is next opened.
  //   kInvalidArgument  the options contradict each other, or the driver refused them
  //   kNotFound, kPermissionDenied, kAlreadyExists  as CheckKernelDevice
  static absl::StatusOr<std::unique_ptr<KernelAttachment>> Attach(const Options& options);

  KernelAttachment(const KernelAttachment&) = delete;
  KernelAttachment& operator=(const KernelAttachment&) = delete;
  ~KernelAttachment();  // Detach, its status dropped

  // Writes back the page cache and what is mounted on the device, waits for what is in flight, disconnects, and waits until the
  // device is free. If its connections were closed already, as by `nbd-client -d`, only what is left of that. A server that
  // answers nothing for ten seconds is given up, unless `keep_waiting` says that it is at work. The second call does nothing.
  //   kFailedPrecondition  detached, but still mounted or open, so not free yet
  //   any other            detached, but what was in the page cache could not be written back
  absl::Status Detach(const std::function<bool()>& keep_waiting = [] { return false; });

 private:
  KernelAttachment(std::string path, std::vector<int> sockets) : path_(std::move(path)), sockets_(std::move(sockets)) {}

  absl::Status AttachByNetlink(const Options& options);
  absl::Status AttachByIoctl(const Options& options);
  absl::Status WaitUntilAttached(uint64_t size);
  bool IsOurs() const;
  bool IsConnected() const;
  void EndIoctl();

  std::string path_;
  std::vector<int> sockets_;  // the kernel's ends, kept to see whether they were closed
  std::string name_;          // "nbd0"
  uint32_t index_ = 0;        // 0
  std::string pid_;           // what the kernel calls the attaching thread: tells this attachment from a later one of others
  bool detached_ = false;

  // With ioctls only: the kernel runs the device in a call of ours that returns when the device is disconnected.
  int control_ = -1;
  std::thread runner_;
  std::atomic<bool> ended_ = false;
  std::atomic<int> error_ = 0;  // errno of that call, once ended_
};

}  // namespace buse

#endif  // BUSE_KERNEL_H_
