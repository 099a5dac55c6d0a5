// SPDX-License-Identifier: Apache-2.0
//
// The server's ends of a device's connections to the kernel, each served by a thread of its own.
//
// The kernel drops a connection on which a request was not answered in time, and sends that connection's requests again on
// another one. What the slow thread is still doing must then be finished before anything is done that was sent later, or it
// could overwrite what a later request wrote. So a thread that has received something first waits until every connection that
// the kernel had dropped by then has ended: it drops first and sends again afterwards. Cost: one system call for each receive,
// and none while there has only been one connection.

#ifndef BUSE_KERNEL_CONNECTIONS_H_
#define BUSE_KERNEL_CONNECTIONS_H_

#include <poll.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <list>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "buse/io.h"
#include "buse/transport.h"

namespace buse {

// Used by one thread, which serves none of the connections. Only one at a time, since Pause uses SIGURG.
class KernelConnections {
 public:
  // Serves until the end: OK if the kernel said that it disconnects, kCancelled if the transport was stopped.
  using Serve = std::function<absl::Status(SocketTransport transport)>;

  explicit KernelConnections(Serve serve);
  KernelConnections(const KernelConnections&) = delete;
  KernelConnections& operator=(const KernelConnections&) = delete;
  // Breaks the connections that are left, and waits for their threads.
  ~KernelConnections();

  // Serves `socket` from now on. kUnavailable: no thread can be had.
  absl::Status Add(UniqueFd socket);

  // Appends what is readable, or hung up, when the rest of this class has news.
  void AppendPoll(std::vector<pollfd>& fds) const;

  struct News {
    size_t dropped = 0;  // connections that the kernel has dropped, or that broke; their requests need others
    absl::Status why;    // of one that broke
  };
  // What has happened since the last call. Joins the threads that have ended.
  News Take();

  size_t count() const { return links_.size(); }
  // Whether any thread still serves.
  bool AnyRuns() const;
  // Whether the kernel still holds any.
  bool AnyConnected() const;
  // Whether the kernel has said on any that it disconnects.
  bool said_disconnect() const { return said_disconnect_; }

  // Has every thread stop between two requests: what arrives waits in the sockets. kDeadlineExceeded: some thread was still at
  // work after `limit`, and all go on.
  absl::Status Pause(std::chrono::milliseconds limit);
  void Resume();
  // While paused: the sockets.
  std::vector<int> sockets() const;
  // While paused: ends the threads, and leaves the connections to whoever else holds the sockets.
  void Release();

 private:
  struct Link;

  class LinkSupervisor : public Supervisor {
   public:
    LinkSupervisor(KernelConnections& all, Link& link) : all_(all), link_(link) {}
    bool MayWait() override;
    void Arrived() override;

   private:
    KernelConnections& all_;
    Link& link_;
  };

  struct Link {
    explicit Link(KernelConnections& all) : supervisor(all, *this) {}

    UniqueFd socket;
    std::thread thread;
    LinkSupervisor supervisor;
    std::atomic<bool> waiting = false;  // for a request, so that a signal does no harm
    bool reported = false;              // as dropped
    // Guarded by mutex_.
    bool paused = false;
    bool ended = false;
    absl::Status status;
  };

  void Run(Link& link);
  bool WaitWhilePaused(Link& link);
  void WaitForDropped(Link& link);

  const Serve serve_;
  const UniqueFd ended_;    // an eventfd: readable when a thread has ended
  const UniqueFd dropped_;  // an epoll: has events when a connection of a running thread is dropped
  struct sigaction before_;
  bool said_disconnect_ = false;
  std::atomic<bool> several_ = false;  // there has been more than one
  std::atomic<bool> pause_ = false;

  mutable std::mutex mutex_;
  std::condition_variable changed_;  // some Link's paused or ended, pause_ or released_
  bool released_ = false;            // guarded by mutex_
  // Changed by the owner alone, under mutex_.
  std::list<Link> links_;
};

}  // namespace buse

#endif  // BUSE_KERNEL_CONNECTIONS_H_
