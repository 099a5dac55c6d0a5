// SPDX-License-Identifier: Apache-2.0
//
// Scheduler: real threads of which one runs at a time, and a choice who goes on whenever one comes to a point. So that a test
// can try the orders in which calls may meet, one after the other, and repeat the one that failed.
//
//   Scheduler scheduler({[&] { ...; Scheduler::Point(); ... }, [&] { ... }}, choose);
//   std::string failure = scheduler.Run();
//
// A thread that waits for a lock or a condition has left the game until another thread wakes it: it is seen to sleep in
// /proc/self/task, away from any point. That takes some 50 microseconds, and asks nothing of the code under test. A woken
// thread runs on beside the one that woke it until one of them comes to a point, where nothing is chosen before both have; all
// threads share one CPU, where the kernel lets the waker run first. So a schedule repeats, but for which of two such threads
// gets a lock that both want.
//
// Threads that the code under test starts for itself take part if they are adopted: such a thread is woken by others, comes to
// points, and sleeps again when it has done what it was asked for. Run returns when that is so.
//
// When every thread waits there is a deadlock; when one comes to no point for a minute it is lost. Run says so and returns,
// and its threads stay as they are for ever, with what they use: the caller must leave all that alone.

#ifndef TESTS_POWER_CUT_SCHEDULER_H_
#define TESTS_POWER_CUT_SCHEDULER_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace buse::testing {

class Scheduler {
 public:
  // Which of `ways` threads goes on; they are numbered in ascending order, but that 0 is the thread that came to the point if
  // it `may_stay`. Not called where there is one way only.
  using Choose = std::function<uint64_t(uint64_t ways, bool may_stay)>;

  // Thread `i` runs `bodies[i]`. `blocked(i)`, if given, is told of one that waits for another thread. The threads `adopted`
  // sleep, or soon will; their numbers follow those of the bodies.
  Scheduler(std::vector<std::function<void()>> bodies, Choose choose, std::function<void(size_t)> blocked = nullptr,
            std::vector<pid_t> adopted = {});

  // Once. Empty: all bodies returned. Otherwise what keeps them.
  std::string Run();

  // All threads of this process, in ascending order.
  static std::vector<pid_t> Threads();

  // A point of the calling thread, if a scheduler runs it.
  static void Point();
  // Its number, if so.
  static std::optional<size_t> Self();

 private:
  struct Core;

  static void Adopt();

  static std::mutex adopter_mutex_;
  static std::shared_ptr<Core> adopter_;  // guarded by adopter_mutex_

  std::shared_ptr<Core> core_;  // shared with the threads, which may outlive this
  const std::vector<pid_t> adopted_;
};

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_SCHEDULER_H_
