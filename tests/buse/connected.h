// SPDX-License-Identifier: Apache-2.0
//
// Connected: a connection to a device over a real socket, served by a thread, without negotiation.

#ifndef TESTS_BUSE_CONNECTED_H_
#define TESTS_BUSE_CONNECTED_H_

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "buse/buffers.h"
#include "buse/connection.h"
#include "buse/exported.h"
#include "buse/io.h"
#include "buse/transport.h"
#include "gtest/gtest.h"

namespace buse::testing {

template <Device D>
class Connected {
 public:
  explicit Connected(const typename D::Config& config, size_t workers = 4, Supervisor* supervisor = nullptr,
                     bool lends_files = false) {
    const absl::Status opened = D::Open(config, device);
    EXPECT_TRUE(opened.ok()) << opened.ToString();
    exported = std::unique_ptr<Exported<D>>(new Exported<D>{
        .device = device,
        .about = {.size = D::Size(device), .flags = nbd::TransmissionFlags<D>(), .contexts = nbd::ContextsOf<D>()},
        .workers = workers,
        .lends_files = lends_files});
    exported->on_failure = [this](const char* command, Range, const absl::Status&) {
      const std::lock_guard lock(mutex_);
      failures_.push_back(command);
    };
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    client.reset(fds[0]);
    server_.reset(fds[1]);
    thread_ = std::thread([this, supervisor] {
      Connection<D, SocketTransport> connection(*exported, SocketTransport(server_.get(), supervisor), *Buffers::Create());
      status_ = connection.Transmit();
      ended_ = true;
      shutdown(server_.get(), SHUT_RDWR);
    });
  }
  // What the device holds back must be let go before.
  ~Connected() {
    client.reset();
    if (thread_.joinable()) thread_.join();
  }

  void Send(const std::string& bytes) {
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t n = send(client.get(), bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
      if (n <= 0) return;
      at += static_cast<size_t>(n);
    }
  }
  // So many bytes, or what came before the end.
  std::string Receive(size_t bytes) {
    std::string out(bytes, '\0');
    if (bytes == 0) return out;
    const ssize_t n = recv(client.get(), out.data(), bytes, MSG_WAITALL);
    return out.substr(0, std::max<ssize_t>(n, 0));
  }
  // Everything up to the end.
  std::string ReceiveAll() {
    std::string out;
    for (std::string piece; !(piece = Receive(65536)).empty();) out += piece;
    return out;
  }
  bool Readable(int milliseconds = 0) {
    pollfd query = {client.get(), POLLIN, 0};
    return poll(&query, 1, milliseconds) == 1;
  }
  absl::Status Join() {
    thread_.join();
    return status_;
  }
  bool ended() const { return ended_; }
  std::vector<std::string> failures() {
    const std::lock_guard lock(mutex_);
    return failures_;
  }

  std::thread::native_handle_type thread() { return thread_.native_handle(); }
  std::thread::id thread_id() const { return thread_.get_id(); }

  typename D::State device;
  std::unique_ptr<Exported<D>> exported;
  UniqueFd client;

 private:
  UniqueFd server_;
  std::thread thread_;
  std::atomic<bool> ended_ = false;
  absl::Status status_;
  std::mutex mutex_;
  std::vector<std::string> failures_;
};

}  // namespace buse::testing

#endif  // TESTS_BUSE_CONNECTED_H_
