// SPDX-License-Identifier: Apache-2.0

#include "layers/checksum_committer.h"

#include <sys/prctl.h>

#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "buse/signals.h"

namespace buse {

ChecksumCommitter::~ChecksumCommitter() {
  if (!started()) return;
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

absl::Status ChecksumCommitter::Start(std::function<void()> commit) {
  commit_ = std::move(commit);
  const SignalBlock block;
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error& error) {
    return absl::UnavailableError(absl::StrCat("checksum: starting a thread: ", error.what()));
  }
  return absl::OkStatus();
}

void ChecksumCommitter::Run() {
  // Where the stack serves the kernel, memory that this thread asks for must not be freed by writing to this very device. Needs
  // a privilege; without it all works, but for that.
  prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return asked_ || ending_; });
    if (ending_) return;
    asked_ = false;
    lock.unlock();
    commit_();
    lock.lock();
  }
}

void ChecksumCommitter::Ask() {
  {
    std::lock_guard lock(mutex_);
    asked_ = true;
  }
  wake_.notify_one();
}

void ChecksumCommitter::Remember(const absl::Status& status) {
  std::lock_guard lock(mutex_);
  error_.Update(status);
}

absl::Status ChecksumCommitter::TakeError() {
  std::lock_guard lock(mutex_);
  return std::exchange(error_, absl::OkStatus());
}

}  // namespace buse
