// SPDX-License-Identifier: Apache-2.0
//
// What a serving process does about signals, and about standard descriptors that were closed.

#ifndef BUSE_SIGNALS_H_
#define BUSE_SIGNALS_H_

#include <signal.h>

#include <array>

#include "buse/io.h"

namespace buse {

// Threads that are started while it lives leave the process's signals to others.
class SignalBlock {
 public:
  SignalBlock();
  SignalBlock(const SignalBlock&) = delete;
  SignalBlock& operator=(const SignalBlock&) = delete;
  ~SignalBlock();

 private:
  sigset_t before_;
};

// Makes a process fit to open files and to serve, whoever started it: opens /dev/null in place of standard descriptors that are
// closed, so that no message lands in a device; and has a write to a closed pipe, or past the limit of a file's size, fail
// rather than kill. Comes before anything is opened; gives the signals back when destroyed.
class ServingProcess {
 public:
  ServingProcess();
  ServingProcess(const ServingProcess&) = delete;
  ServingProcess& operator=(const ServingProcess&) = delete;
  ~ServingProcess();

 private:
  std::array<struct sigaction, 2> before_;
};

// Has SIGINT, SIGTERM and SIGHUP tell instead of kill, whichever thread they reach; one that is ignored (nohup) stays so. Only
// one at a time. Gives the signals back when destroyed.
class StopSignals {
 public:
  StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals();

  // Readable when a signal has come that Take did not take.
  int fd() const { return fd_.get(); }
  bool Take();
  // How many have come.
  int count() const;

 private:
  UniqueFd fd_;
  std::array<struct sigaction, 3> before_;
};

}  // namespace buse

#endif  // BUSE_SIGNALS_H_
