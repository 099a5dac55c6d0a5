// SPDX-License-Identifier: Apache-2.0
//
// The threads that serve a device's connections: one for each.

#ifndef BUSE_CLIENTS_H_
#define BUSE_CLIENTS_H_

#include <atomic>
#include <cstddef>
#include <functional>
#include <list>
#include <thread>

#include "absl/status/status.h"
#include "buse/io.h"

namespace buse {

// Used by one thread, the one that accepts.
class Clients {
 public:
  Clients();
  Clients(const Clients&) = delete;
  Clients& operator=(const Clients&) = delete;
  // Breaks the connections that are left, and waits for their threads.
  ~Clients();

  // Runs `serve` in a thread of its own. When it returns, the socket is shut down; it is closed by Reap.
  // Errors: kUnavailable when no thread can be had.
  absl::Status Start(UniqueFd socket, std::function<void(int fd)> serve);

  // Readable when some thread has ended since the last Reap.
  int ended_fd() const { return ended_.get(); }

  // Joins the threads that have ended and closes their sockets.
  void Reap();

  // Clients can send nothing more: what has arrived is still answered.
  void StopReceiving();
  // Nor can they be answered.
  void Disconnect();

  size_t count() const { return clients_.size(); }

 private:
  struct Client {
    UniqueFd socket;
    std::atomic<bool> ended = false;
    std::thread thread;
  };

  UniqueFd ended_;
  std::list<Client> clients_;
};

}  // namespace buse

#endif  // BUSE_CLIENTS_H_
