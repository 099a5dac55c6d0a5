// SPDX-License-Identifier: Apache-2.0
//
// Real programs in tests: started, watched, signalled and waited for. Nothing waits without end.

#ifndef TESTS_PROCESS_H_
#define TESTS_PROCESS_H_

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

namespace buse::testing {

inline constexpr std::chrono::seconds kPatience(60);

// The path of a file that Bazel built or found for this test, "examples/memdisk".
std::string Runfile(const std::string& path);

// A program that runs beside the test. Standard output and standard error are collected together. Killed if still running when
// destroyed.
class Process {
 public:
  // `arguments[0]` is looked up in PATH, and in the sbin folders.
  explicit Process(const std::vector<std::string>& arguments);
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process();

  // Waits until `text` was printed. False: it ended first, or patience ran out.
  bool WaitFor(const std::string& text);
  void Signal(int signal);
  // Waits for the end. Returns the exit code, 128 + the signal that killed it, or -1 when patience ran out (and kills it).
  int Wait(std::chrono::seconds patience = kPatience);

  pid_t pid() const { return pid_; }
  const std::string& output() const { return output_; }

 private:
  // Collects what is there or comes until `until`. False: no more will come.
  bool Collect(std::chrono::steady_clock::time_point until);

  pid_t pid_ = -1;
  int pipe_ = -1;
  int exit_code_ = -1;
  bool ended_ = false;
  std::string output_;
};

struct Result {
  int exit_code;
  std::string output;
};

// Runs a program to its end.
Result RunToEnd(const std::vector<std::string>& arguments);
// Runs a line of shell.
Result Shell(const std::string& line);

}  // namespace buse::testing

#endif  // TESTS_PROCESS_H_
