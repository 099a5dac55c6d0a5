// SPDX-License-Identifier: Apache-2.0

#include "buse/kernel_netlink.h"

#include <linux/nbd-netlink.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>

#include <cassert>
#include <cerrno>
#include <utility>

#include "buse/kernel_device.h"

namespace buse {
namespace {

// Later than the headers of old systems.
constexpr int kBackendIdentifier = 10;

// One request to the kernel's nbd family. The kernel's answer is an errno value.
class Request {
 public:
  explicit Request(uint8_t command) : socket_(nl_socket_alloc()), message_(nlmsg_alloc()) {
    if (socket_ == nullptr || message_ == nullptr || genl_connect(socket_) < 0) return;
    const int family = genl_ctrl_resolve(socket_, NBD_GENL_FAMILY_NAME);
    if (family < 0) return;
    reachable_ = genlmsg_put(message_, NL_AUTO_PORT, NL_AUTO_SEQ, family, 0, 0, command, NBD_GENL_VERSION) != nullptr;
  }
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;
  ~Request() {
    nlmsg_free(message_);
    nl_socket_free(socket_);
  }

  bool reachable() const { return reachable_; }
  nl_msg* message() { return message_; }

  int Send() {
    if (!reachable_) return ENOTCONN;
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

int Send(uint8_t command, uint32_t index, const NetlinkAttributes& attributes) {
  assert(!ServesKernelRequests());
  Request request(command);
  if (!request.reachable()) return ENOTCONN;
  nl_msg* message = request.message();
  const auto put = [&](int attribute, uint64_t value) {
    if (value != 0) nla_put_u64(message, attribute, value);
  };
  nla_put_u32(message, NBD_ATTR_INDEX, index);
  put(NBD_ATTR_SIZE_BYTES, attributes.size);
  put(NBD_ATTR_BLOCK_SIZE_BYTES, attributes.block_size);
  put(NBD_ATTR_SERVER_FLAGS, attributes.flags);
  put(NBD_ATTR_TIMEOUT, static_cast<uint64_t>(attributes.request_timeout.count()));
  put(NBD_ATTR_DEAD_CONN_TIMEOUT, static_cast<uint64_t>(attributes.dead_timeout.count()));
  if (!attributes.backend.empty()) nla_put_string(message, kBackendIdentifier, attributes.backend.c_str());
  if (!attributes.sockets.empty()) {
    nlattr* sockets = nla_nest_start(message, NBD_ATTR_SOCKETS);
    for (int socket : attributes.sockets) {
      nlattr* item = nla_nest_start(message, NBD_SOCK_ITEM);
      nla_put_u32(message, NBD_SOCK_FD, static_cast<uint32_t>(socket));
      nla_nest_end(message, item);
    }
    nla_nest_end(message, sockets);
  }
  return request.Send();
}

}  // namespace

bool NetlinkReachable() { return Request(NBD_CMD_CONNECT).reachable(); }

int NetlinkConnect(uint32_t index, const NetlinkAttributes& attributes) { return Send(NBD_CMD_CONNECT, index, attributes); }

int NetlinkReconfigure(uint32_t index, const NetlinkAttributes& attributes) {
  return Send(NBD_CMD_RECONFIGURE, index, attributes);
}

int NetlinkDisconnect(uint32_t index) { return Send(NBD_CMD_DISCONNECT, index, {}); }

}  // namespace buse
