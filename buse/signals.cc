// SPDX-License-Identifier: Apache-2.0

#include "buse/signals.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace buse {
namespace {

constexpr std::array<int, 3> kStop = {SIGINT, SIGTERM, SIGHUP};
constexpr std::array<int, 2> kFatalWrites = {SIGPIPE, SIGXFSZ};

// What a handler can reach.
std::atomic<int> stop_fd = -1;
std::atomic<int> stop_count = 0;

void OnStop(int) {
  const int error = errno;
  ++stop_count;
  eventfd_write(stop_fd, 1);
  errno = error;
}

}  // namespace

SignalBlock::SignalBlock() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before_);
}

SignalBlock::~SignalBlock() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

ServingProcess::ServingProcess() {
  // open takes the lowest free descriptor, so the loop ends when 0 to 2 are taken.
  int fd;
  do {
    fd = open("/dev/null", O_RDWR);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) close(fd);
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  for (size_t i = 0; i < kFatalWrites.size(); ++i) sigaction(kFatalWrites[i], &ignore, &before_[i]);
}

ServingProcess::~ServingProcess() {
  for (size_t i = 0; i < kFatalWrites.size(); ++i) sigaction(kFatalWrites[i], &before_[i], nullptr);
}

StopSignals::StopSignals() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  stop_count = 0;
  stop_fd = fd_.get();
  struct sigaction tell = {};
  tell.sa_handler = OnStop;
  tell.sa_flags = SA_RESTART;
  for (size_t i = 0; i < kStop.size(); ++i) {
    sigaction(kStop[i], nullptr, &before_[i]);
    if (before_[i].sa_handler != SIG_IGN) sigaction(kStop[i], &tell, nullptr);
  }
}

StopSignals::~StopSignals() {
  for (size_t i = 0; i < kStop.size(); ++i) sigaction(kStop[i], &before_[i], nullptr);
  stop_fd = -1;
}

bool StopSignals::Take() {
  eventfd_t value = 0;
  return eventfd_read(fd_.get(), &value) == 0 && value > 0;
}

int StopSignals::count() const { return stop_count; }

}  // namespace buse
