// SPDX-License-Identifier: Apache-2.0

#include "buse/kernel_connections.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "buse/kernel_device.h"
#include "buse/signals.h"

namespace buse {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPoll{2};
constexpr std::chrono::milliseconds kLastWords{100};  // for a thread with nothing else to do

// Whether the other side is gone.
bool IsDropped(int socket) {
  pollfd query = {socket, POLLRDHUP, 0};
  return poll(&query, 1, 0) == 1;
}

}  // namespace

KernelConnections::KernelConnections(Serve serve)
    : serve_(std::move(serve)), ended_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), dropped_(epoll_create1(EPOLL_CLOEXEC)) {
  // Ignored by default, so that one that goes astray does no harm.
  struct sigaction interrupt = {};
  interrupt.sa_handler = [](int) {};
  sigaction(SIGURG, &interrupt, &before_);
}

KernelConnections::~KernelConnections() {
  Resume();
  for (Link& link : links_) shutdown(link.socket.get(), SHUT_RDWR);
  for (Link& link : links_) link.thread.join();
  sigaction(SIGURG, &before_, nullptr);
}

absl::Status KernelConnections::Add(UniqueFd socket) {
  std::unique_lock lock(mutex_);
  Link& link = links_.emplace_back(*this);
  link.socket = std::move(socket);
  if (links_.size() > 1) several_ = true;
  epoll_event event = {};  // that it is hung up is told unasked
  epoll_ctl(dropped_.get(), EPOLL_CTL_ADD, link.socket.get(), &event);
  const SignalBlock block;
  try {
    link.thread = std::thread([this, &link] { Run(link); });
  } catch (const std::system_error& error) {
    links_.pop_back();
    return absl::UnavailableError(absl::StrCat("starting a thread: ", error.what()));
  }
  return absl::OkStatus();
}

void KernelConnections::Run(Link& link) {
  BecomeIoFlusher();
  ServeKernelRequests();
  sigset_t interrupt;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGURG);
  pthread_sigmask(SIG_UNBLOCK, &interrupt, nullptr);
  absl::Status status;
  bool ours = true;
  do {
    status = serve_(SocketTransport(link.socket.get(), &link.supervisor));
    link.waiting = false;
    if (!absl::IsCancelled(status)) break;
    ours = WaitWhilePaused(link);
  } while (ours);
  epoll_ctl(dropped_.get(), EPOLL_CTL_DEL, link.socket.get(), nullptr);
  // The kernel must see the end now, and not when the thread is joined.
  if (ours) shutdown(link.socket.get(), SHUT_RDWR);
  const std::lock_guard lock(mutex_);
  link.ended = true;
  link.status = std::move(status);
  changed_.notify_all();
  eventfd_write(ended_.get(), 1);
}

bool KernelConnections::WaitWhilePaused(Link& link) {
  std::unique_lock lock(mutex_);
  link.paused = true;
  changed_.notify_all();
  changed_.wait(lock, [&] { return !pause_ || released_; });
  link.paused = false;
  return !released_;
}

bool KernelConnections::LinkSupervisor::MayWait() {
  // In this order: Pause sets the one, then looks at the other, and interrupts who does not see it.
  link_.waiting = true;
  if (!all_.pause_) return true;
  link_.waiting = false;
  return false;
}

void KernelConnections::LinkSupervisor::Arrived() {
  link_.waiting.store(false, std::memory_order_relaxed);
  epoll_event event;
  if (!all_.several_.load(std::memory_order_relaxed) || epoll_wait(all_.dropped_.get(), &event, 1, 0) <= 0) return;
  all_.WaitForDropped(link_);
}

// A connection that is dropped itself waits for nobody: nothing that it does can be acknowledged, and the others wait for it.
void KernelConnections::WaitForDropped(Link& link) {
  std::unique_lock lock(mutex_);
  const auto done = [&] {
    return IsDropped(link.socket.get()) || std::none_of(links_.begin(), links_.end(), [&](const Link& other) {
             return &other != &link && !other.ended && IsDropped(other.socket.get());
           });
  };
  while (!done()) changed_.wait_for(lock, kPoll);
}

void KernelConnections::AppendPoll(std::vector<pollfd>& fds) const {
  fds.push_back({ended_.get(), POLLIN, 0});
  for (const Link& link : links_) {
    if (!link.reported) fds.push_back({link.socket.get(), POLLRDHUP, 0});
  }
}

KernelConnections::News KernelConnections::Take() {
  eventfd_t ignored;
  eventfd_read(ended_.get(), &ignored);
  News news;
  std::unique_lock lock(mutex_);
  // The kernel hangs up as soon as it has said that it disconnects: the thread may not yet have heard it.
  changed_.wait_for(lock, kLastWords, [&] {
    return std::all_of(links_.begin(), links_.end(), [](const Link& link) {
      return link.ended || link.reported || link.paused || !IsDropped(link.socket.get());
    });
  });
  links_.remove_if([&](Link& link) {
    if (link.ended && link.status.ok()) {
      said_disconnect_ = link.reported = true;
    } else if (!link.reported && (link.ended || IsDropped(link.socket.get()))) {
      link.reported = true;
      ++news.dropped;
    }
    if (!link.ended) return false;
    if (!link.status.ok()) news.why = link.status;
    link.thread.join();
    return true;
  });
  return news;
}

bool KernelConnections::AnyRuns() const {
  const std::lock_guard lock(mutex_);
  return std::any_of(links_.begin(), links_.end(), [](const Link& link) { return !link.ended; });
}

bool KernelConnections::AnyConnected() const {
  return std::any_of(links_.begin(), links_.end(), [](const Link& link) { return !IsDropped(link.socket.get()); });
}

absl::Status KernelConnections::Pause(std::chrono::milliseconds limit) {
  const auto end = steady_clock::now() + limit;
  std::unique_lock lock(mutex_);
  pause_ = true;
  const auto stopped = [&] {
    return std::all_of(links_.begin(), links_.end(), [](const Link& link) { return link.paused || link.ended; });
  };
  while (!stopped()) {
    for (Link& link : links_) {
      if (link.waiting && !link.ended) pthread_kill(link.thread.native_handle(), SIGURG);
    }
    // A signal may come just before the wait that it should interrupt.
    changed_.wait_for(lock, kPoll);
    if (steady_clock::now() < end || stopped()) continue;
    lock.unlock();
    Resume();
    return absl::DeadlineExceededError("a request takes too long");
  }
  return absl::OkStatus();
}

void KernelConnections::Resume() {
  const std::lock_guard lock(mutex_);
  pause_ = false;
  changed_.notify_all();
}

std::vector<int> KernelConnections::sockets() const {
  std::vector<int> sockets;
  const std::lock_guard lock(mutex_);
  for (const Link& link : links_) {
    if (link.paused) sockets.push_back(link.socket.get());
  }
  return sockets;
}

void KernelConnections::Release() {
  {
    const std::lock_guard lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }
  for (Link& link : links_) link.thread.join();
  links_.clear();
}

}  // namespace buse
