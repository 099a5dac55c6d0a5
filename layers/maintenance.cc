// SPDX-License-Identifier: Apache-2.0
//
// Ten times a second the thread does a tenth of what the rates allow.

#include "layers/maintenance.h"

#include <errno.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "buse/status.h"

namespace buse {
namespace {

constexpr int kTicks = 10;             // in a second
constexpr uint64_t kStep = 256 << 10;  // others wait for no more than this

}  // namespace

void Maintenance::Pace::Note(uint64_t left, Clock::time_point now) {
  const double seconds = std::chrono::duration<double>(now - at_).count();
  // Where there is more left than before, something else began.
  const double speed = left < left_ ? static_cast<double>(left_ - left) / seconds : 0;
  const bool begins = left > left_ || bytes_per_second_ == 0;
  bytes_per_second_ = begins ? speed : bytes_per_second_ * 0.8 + speed * 0.2;
  left_ = left;
  at_ = now;
}

absl::optional<uint64_t> Maintenance::Pace::seconds() const {
  // Slower than this it stands still.
  if (left_ == 0 || bytes_per_second_ < 1) return absl::nullopt;
  return static_cast<uint64_t>(static_cast<double>(left_) / bytes_per_second_) + 1;
}

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
  if (absl::Status status = Tell(device_.status(), true); !status.ok()) return status;
  thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void Maintenance::Run() {
  // The kernel may wait for what this thread holds up, so that it must not wait for the kernel to write to us.
  prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
  std::unique_lock lock(mutex_);
  for (int tick = 1; !changed_.wait_for(lock, std::chrono::milliseconds(1000 / kTicks), [this] { return stop_; }); ++tick) {
    lock.unlock();
    const LegsStatus status = device_.status();
    if (tick % kTicks == 0) {
      rebuilding_.Note(status.bytes_to_rebuild, Clock::now());
      scrubbing_.Note(status.bytes_to_scrub, Clock::now());
    }
    // A file that cannot be written now may be later.
    if (tick % kTicks == 0 || ToLine(About(status, true)) != told_) Tell(status, true).IgnoreError();
    Work(status);
    lock.lock();
  }
  lock.unlock();
  Tell(device_.status(), false).IgnoreError();
}

void Maintenance::Work(const LegsStatus& status) {
  const bool rebuilds = status.Count(LegState::kRebuilding) != 0 || status.bytes_to_resync != 0;
  const auto& step = rebuilds ? device_.rebuild : device_.scrub;
  const uint64_t rate = rebuilds ? options_.rebuild_rate : options_.scrub_rate;
  for (uint64_t left = rate / kTicks; left > 0;) {
    const uint64_t bytes = std::min(left, kStep);
    // An error is of what cannot be read; it is counted, and the next step goes on behind it.
    const absl::StatusOr<uint64_t> rest = step(bytes);
    left -= bytes;
    std::lock_guard lock(mutex_);
    if (stop_ || (rest.ok() && *rest == 0)) return;
  }
}

MaintenanceStatus Maintenance::About(const LegsStatus& legs, bool serving) const {
  return {.layer = options_.layer,
          .media = options_.media,
          .legs = legs,
          .rebuild_rate = options_.rebuild_rate,
          .scrub_rate = options_.scrub_rate,
          .seconds_to_rebuild = rebuilding_.seconds(),
          .seconds_to_scrub = scrubbing_.seconds(),
          .serving = serving,
          .time = static_cast<uint64_t>(time(nullptr))};
}

absl::Status Maintenance::Tell(const LegsStatus& legs, bool serving) {
  const MaintenanceStatus status = About(legs, serving);
  if (std::string line = ToLine(status); line != told_) {
    fprintf(stderr, "%s\n", line.c_str());
    told_ = std::move(line);
  }
  if (options_.status_file.empty()) return absl::OkStatus();
  // Whoever reads it finds all of it.
  const std::string next = absl::StrCat(options_.status_file, ".next");
  FILE* const file = fopen(next.c_str(), "we");
  if (file == nullptr) return StatusFromErrno(errno, absl::StrCat(next, ": cannot write the status"));
  const bool wrote = fprintf(file, "%s\n", ToJson(status).c_str()) > 0;
  if (fclose(file) != 0 || !wrote || rename(next.c_str(), options_.status_file.c_str()) != 0) {
    return StatusFromErrno(errno, absl::StrCat(options_.status_file, ": cannot write the status"));
  }
  return absl::OkStatus();
}

}  // namespace buse
