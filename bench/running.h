// SPDX-License-Identifier: Apache-2.0
//
// A subject's process, with the folder and the file that it was given.

#ifndef BENCH_RUNNING_H_
#define BENCH_RUNNING_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/child.h"
#include "bench/contestant.h"
#include "bench/subjects.h"

namespace buse::bench {

// Makes a file that reads as zeroes, or that is written in full.
absl::Status MakeFile(const std::string& path, uint64_t size, bool written);

// Ends the process, and removes what it was given.
class Running {
 public:
  // `device` stands for {device}. Both references must outlive it.
  Running(const Subject& subject, const Settings& settings, std::string device = "");
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
  ~Running();

  // Makes its file where it has one, prepares that, and starts the subject's command for a device of `size` bytes.
  // Errors: kNotFound where a program is not installed.
  absl::Status Start(uint64_t size);

  // Asks `up` again and again until it is OK, for ten seconds at most, or until the process has ended.
  absl::Status WaitUntil(const std::function<absl::Status()>& up);

  // Runs another of the subject's commands to its end. `what` it is for: "its file cannot be made".
  absl::Status RunToEnd(const std::vector<std::string>& command, const std::string& what);

  // Only when it was started.
  Child& child() { return *child_; }
  const std::string& socket() const { return socket_; }
  const std::string& folder() const { return folder_; }

 private:
  std::string FillIn(const std::string& text) const;
  absl::StatusOr<Child> StartCommand(const std::vector<std::string>& words, const std::string& log) const;

  const Subject& subject_;
  const Settings& settings_;
  const std::string device_;
  uint64_t size_ = 0;
  std::string folder_;
  std::string socket_;
  std::string file_;
  std::unique_ptr<Child> child_;
};

}  // namespace buse::bench

#endif  // BENCH_RUNNING_H_
