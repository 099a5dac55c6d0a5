// SPDX-License-Identifier: Apache-2.0
//
// A server that the benchmark started: where it runs, what CPU and memory it uses, its end.

#ifndef BENCH_CHILD_H_
#define BENCH_CHILD_H_

#include <sched.h>
#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace buse::bench {

// Dies with the benchmark, and does not hear the terminal's Ctrl-C. Ended by its destructor, by force if it must be. Move-only.
class Child {
 public:
  // Starts `arguments`, looked up in PATH and the sbin folders, on the CPUs of `cpus`. What it prints goes to the file `log`.
  // Errors: kNotFound where there is no such program.
  static absl::StatusOr<Child> Start(const std::vector<std::string>& arguments, const cpu_set_t& cpus, const std::string& log);

  // For a program that goes to the background and leaves its process id in the file `pid_file`: that is the child from now on.
  // False: there is no such file yet. The benchmark becomes the one to wait for such children.
  bool FollowTo(const std::string& pid_file);

  Child(Child&& other) noexcept : pid_(other.pid_), log_(std::move(other.log_)) { other.pid_ = -1; }
  Child& operator=(Child&&) = delete;
  ~Child();

  // Whether it ended by itself.
  bool Ended();
  // Waits for its end. Returns its exit code, -1 if it was killed.
  int Wait();

  // What it and its own children, with all their threads, have used so far, those children which ended left out.
  double CpuSeconds() const;
  // How often its threads that live have gone to sleep so far.
  uint64_t Sleeps() const;
  // Physical memory that it holds, in bytes: its own, that of libraries, and all of its memory files (memfd).
  uint64_t Memory() const;
  // The last line that it printed.
  std::string LastWords() const;

 private:
  Child(pid_t pid, std::string log) : pid_(pid), log_(std::move(log)) {}

  pid_t pid_;
  std::string log_;
};

// Where a program would be started from; "" if there is none.
std::string FindProgram(const std::string& name);

}  // namespace buse::bench

#endif  // BENCH_CHILD_H_
