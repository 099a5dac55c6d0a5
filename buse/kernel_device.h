// SPDX-License-Identifier: Apache-2.0
//
// A device of the kernel's nbd driver as sysfs shows it: whether it is free, what it was attached with, how it gets on.

#ifndef BUSE_KERNEL_DEVICE_H_
#define BUSE_KERNEL_DEVICE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace buse {

// Stands for any free device wherever one is to be attached.
inline constexpr absl::string_view kAnyKernelDevice = "/dev/nbd";

class KernelDevice {
 public:
  // kNotFound: no nbd in this kernel, no such device, or not a whole nbd device.
  static absl::StatusOr<KernelDevice> Find(absl::string_view path);

  // The free device of the least number from `first` on. Where all are in use it is one that the kernel does not have yet, and
  // makes when it is attached through netlink.
  // kNotFound: no nbd in this kernel.
  static absl::StatusOr<KernelDevice> FindFree(uint32_t first = 0);

  // All that the kernel has.
  static std::vector<KernelDevice> All();

  // kPermissionDenied: this process may not attach or detach devices.
  static absl::Status CheckPrivilege(absl::string_view path);

  const std::string& path() const { return path_; }  // "/dev/nbd0"
  const std::string& name() const { return name_; }  // "nbd0"
  uint32_t index() const { return index_; }          // 0

  // No process, no size, nothing in flight and no holders.
  bool IsFree() const;
  bool NothingInFlight() const;
  uint64_t size() const;        // bytes
  std::string pid() const;      // of the thread that attached it, which may be gone; empty if it is not attached
  uint64_t block_size() const;  // logical
  uint64_t completed() const;   // requests so far
  // What the backend was named when it was attached. Absent before Linux 5.14, and where it was attached by ioctl.
  absl::optional<std::string> backend() const;

  // kAlreadyExists, with the sentence for it.
  absl::Status InUse() const;

  // Has requests come as large as may be, where the kernel's own default keeps them small, and straight from whoever makes them:
  // a scheduler would pass each through one more thread, and whatever is below the server has one of its own. What the
  // kernel does not let be changed stays. Detaching undoes none of it.
  void TuneQueue() const;

  // Has udev look at the device again. What the kernel says of a new attachment by itself comes before all of it can be read.
  void TellUdev() const;

 private:
  KernelDevice(std::string path, std::string name, uint32_t index)
      : path_(std::move(path)), name_(std::move(name)), index_(index) {}

  std::string Attribute(absl::string_view attribute) const;
  uint64_t Number(absl::string_view attribute) const;

  std::string path_;
  std::string name_;
  uint32_t index_ = 0;
};

// Has memory that the calling thread asks for not be freed by writing to a block device, which might be the very one that it
// serves; so too for threads that it starts from then on. Needs a privilege (CAP_SYS_RESOURCE): without it nothing changes.
void BecomeIoFlusher();

// Says that the calling thread serves requests of kernel devices, and whether it does. A call that has the kernel wait for such
// requests must not come from it: it would wait for itself.
void ServeKernelRequests();
bool ServesKernelRequests();

// Whether `condition` came true within `limit`. It is asked every few milliseconds.
bool WaitUntil(const std::function<bool()>& condition, std::chrono::milliseconds limit);

}  // namespace buse

#endif  // BUSE_KERNEL_DEVICE_H_
