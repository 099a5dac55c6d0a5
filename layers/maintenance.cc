// SPDX-License-Identifier: Apache-2.0
//
// Ten times a second the thread does a tenth of what the rates allow.

#include "layers/maintenance.h"

#include <errno.h>
#include <stdio.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "buse/status.h"

namespace buse {
namespace {

constexpr int kTicks = 10;               // in a second
constexpr uint64_t kStep = 256 << 10;  // others wait for no more than this

}  // namespace

Maintenance::~Maintenance() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

absl::Status Maintenance::Start(Device device, Options options) {
  device_ = std::move(device);
  options_ = std::move(options);
  if (absl::Status status = Tell(device_.status()); !status.ok()) return status;
  thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void Maintenance::Run() {
  // The kernel may wait for what this thread holds up, so that it must not wait for the kernel to write to us.
  prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
  std::unique_lock lock(mutex_);
  for (int tick = 1; !changed_.wait_for(lock, std::chrono::milliseconds(1000 / kTicks), [this] { return stop_; }); ++tick) {
    lock.unlock();
    const Status status = device_.status();
    // A file that cannot be written now may be later.
    if (tick % kTicks == 0 || status.line != told_) Tell(status).IgnoreError();
    Work(status);
    lock.lock();
  }
  lock.unlock();
  Tell(device_.status()).IgnoreError();
}

void Maintenance::Work(const Status& status) {
  const auto& step = status.rebuilds ? device_.rebuild : device_.scrub;
  const uint64_t rate = status.rebuilds ? options_.rebuild_rate : options_.scrub_rate;
  for (uint64_t left = rate / kTicks; left > 0;) {
    const uint64_t bytes = std::min(left, kStep);
    // An error is of what cannot be read; it is counted, and the next step goes on behind it.
    const absl::StatusOr<uint64_t> rest = step(bytes);
    left -= bytes;
    std::lock_guard lock(mutex_);
    if (stop_ || (rest.ok() && *rest == 0)) return;
  }
}

absl::Status Maintenance::Tell(const Status& status) {
  if (status.line != told_) fprintf(stderr, "%s\n", status.line.c_str());
  told_ = status.line;
  if (options_.status_file.empty() || status.json == written_) return absl::OkStatus();
  // Whoever reads it finds all of it.
  const std::string next = absl::StrCat(options_.status_file, ".next");
  FILE* const file = fopen(next.c_str(), "we");
  if (file == nullptr) return StatusFromErrno(errno, absl::StrCat(next, ": cannot write the status"));
  const bool wrote = fprintf(file, "%s\n", status.json.c_str()) > 0;
  if (fclose(file) != 0 || !wrote || rename(next.c_str(), options_.status_file.c_str()) != 0) {
    return StatusFromErrno(errno, absl::StrCat(options_.status_file, ": cannot write the status"));
  }
  written_ = status.json;
  return absl::OkStatus();
}

}  // namespace buse
