// SPDX-License-Identifier: Apache-2.0
//
// Fibers: many tasks of a connection at once, in its own thread. Each runs until the device has a file read or written
// (buse/io.h); then it is parked, the kernel does that by itself (io_uring), and others run. So a batch of requests costs a system
// call to hand over and one to collect, where workers take two wake-ups for each.
//
// What is under way when the process is killed keeps its file open, and so locked, until it is done: whoever serves the file next
// does not meet it.
//
// Only for devices that may be parked (buse::MayPark): whoever is parked with a lock held would keep it from those that run in the
// same thread, for ever.

#ifndef BUSE_FIBERS_H_
#define BUSE_FIBERS_H_

#include <liburing.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "buse/parking.h"
#include "buse/workers.h"

namespace buse {

// Used by one thread, from its creation on.
class Fibers final : private Parking {
 public:
  using Task = Workers::Task;

  // `perform` does a task. At most `count` of them are under way at a time. Null where there is no io_uring, or none is allowed, as
  // in many containers; there are workers instead.
  static std::unique_ptr<Fibers> Create(size_t count, std::function<void(Task&)> perform);

  Fibers(const Fibers&) = delete;
  Fibers& operator=(const Fibers&) = delete;
  // Nothing may be under way.
  ~Fibers();

  size_t under_way() const { return fibers_.size() - idle_.size(); }

  // Runs it until it is done or parked. What it asked for is handed over by Proceed.
  void Start(Task& task);

  // Hands over what was asked for, and runs what waited for what the kernel is done with. Does not wait.
  void Proceed();

  // Waits until the kernel is done with something, until `fd` has something to receive or is at its end (-1: does not look), or for
  // a signal. True: there may be something to Proceed with, and `fd` has nothing.
  bool Wait(int fd);

  // What was done since Forget.
  std::span<Task* const> done() const { return done_; }
  void Forget() { done_.clear(); }

 private:
  struct Fiber;

  explicit Fibers(std::function<void(Task&)> perform);

  bool Open(size_t count);

  ssize_t Read(int fd, Bytes out, uint64_t offset) override;
  ssize_t Write(int fd, ConstBytes in, uint64_t offset, int rwf_flags) override;
  io_uring_sqe* NextEntry();
  ssize_t Park(io_uring_sqe* entry);
  void Run(Fiber& fiber);

  std::function<void(Task&)> perform_;
  io_uring ring_{};
  bool ring_open_ = false;
  Fiber* running_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  std::vector<Task*> done_;
};

}  // namespace buse

#endif  // BUSE_FIBERS_H_
