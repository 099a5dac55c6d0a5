// SPDX-License-Identifier: Apache-2.0
//
// ChecksumCommitter: the thread of a Checksum that commits a full stage while others fill the other one, and what it failed
// with until somebody has been told.
//
// Any thread may call anything between Start and the end. Nothing but Start allocates.

#ifndef LAYERS_CHECKSUM_COMMITTER_H_
#define LAYERS_CHECKSUM_COMMITTER_H_

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/status/status.h"

namespace buse {

class ChecksumCommitter {
 public:
  ChecksumCommitter() = default;
  ChecksumCommitter(const ChecksumCommitter&) = delete;
  ChecksumCommitter& operator=(const ChecksumCommitter&) = delete;
  // Waits for a commit that is under way; none is begun.
  ~ChecksumCommitter();

  // At most once, before anything else: without it nobody need Ask. The thread calls `commit`, which tells its outcome by
  // Remember. kUnavailable where there is no thread to be had.
  absl::Status Start(std::function<void()> commit);
  bool started() const { return thread_.joinable(); }

  // Has `commit` called, once for all that asked before it is. Returns at once.
  void Ask();

  void Remember(const absl::Status& status);
  // The first error since this was last called. Whoever gets it has to tell it.
  absl::Status TakeError();

 private:
  void Run();

  std::function<void()> commit_;
  std::mutex mutex_;  // guards what follows, but for the thread
  std::condition_variable wake_;
  bool asked_ = false;
  bool ending_ = false;
  absl::Status error_;
  std::thread thread_;
};

}  // namespace buse

#endif  // LAYERS_CHECKSUM_COMMITTER_H_
