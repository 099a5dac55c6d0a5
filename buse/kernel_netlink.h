// SPDX-License-Identifier: Apache-2.0
//
// What can be asked of the kernel's nbd driver through netlink. Each call waits for the kernel, which may wait for the device:
// none belongs on a thread that serves it.

#ifndef BUSE_KERNEL_NETLINK_H_
#define BUSE_KERNEL_NETLINK_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace buse {

// Whether the kernel offers nbd through netlink. It does not show it to other network namespaces than the first.
bool NetlinkReachable();

// What a device is attached with, or what is to change about it. Zero and empty: say nothing of it.
struct NetlinkAttributes {
  uint64_t size = 0;
  uint64_t block_size = 0;
  uint64_t flags = 0;  // only while attaching
  std::chrono::seconds request_timeout{0};
  std::chrono::seconds dead_timeout{0};
  std::string backend;  // while attaching its name is set, later it must be the same
  std::vector<int> sockets;
};

// These return 0 or the kernel's errno.
int NetlinkConnect(uint32_t index, const NetlinkAttributes& attributes);
// Sockets take the places of dead ones. What finds no place is ignored: the kernel holds it no longer then.
int NetlinkReconfigure(uint32_t index, const NetlinkAttributes& attributes);
int NetlinkDisconnect(uint32_t index);

}  // namespace buse

#endif  // BUSE_KERNEL_NETLINK_H_
