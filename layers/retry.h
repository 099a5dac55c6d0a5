// SPDX-License-Identifier: Apache-2.0
//
// Retry: repeats an operation that failed where repeating it may help, after a pause that doubles each time, up to a minute.
//
// Family: observer.
// Guarantees: only what failed with kInternal (the medium failed) or kUnavailable (out of something for the moment) is
// repeated; every other code says that it would fail again, and kDataLoss that the bytes are wrong. The result is that of the
// last attempt.
//   Flush        is never repeated, and its error is passed on at once. A system that could not write a page back may report
//                that once and drop the page: the second flush succeeds since nothing is left to write, and to repeat it here
//                would turn lost data into success. Whoever wrote knows what to write again.
//   WriteThrough the same, since it may contain a flush, whose error concerns earlier writes too.
//   View         forgets the pieces of a failed attempt before the next.
//   Extents      is repeated while it has emitted nothing, since what was emitted cannot be taken back.
//   Prefetch     is a hint and not repeated.
// Concurrency: that of the device below. The pause passes in the thread that made the request, without a lock.
// Cost: none where nothing fails. An error takes up to retries * (the pauses and the time that the device below takes to fail).
// Failure: that of the device below. Open refuses more than 100 repetitions, and a first pause of more than a minute; it is not
// repeated itself.
//
//   using Stack = buse::Retry<buse::FileBacked>;
//   Stack::Config config{.retries = 5, .delay = 50, .below = {.path = "/mnt/nfs/disk.img"}};

#ifndef LAYERS_RETRY_H_
#define LAYERS_RETRY_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/gather.h"

namespace buse {

template <Device B>
struct Retry {
  using Below = B;

  struct Config {
    uint64_t retries = 3;
    uint64_t delay = 100;  // milliseconds before the first repetition; doubles up to a minute
    typename Below::Config below;
  };

  struct State {
    typename Below::State below;
    uint64_t retries = 0;
    std::chrono::milliseconds delay{0};
  };

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;
  static constexpr bool kWaits = true;
  static constexpr uint64_t kMostRetries = 100;
  static constexpr uint64_t kMostDelay = 60000;

  // The pause that follows one of this length.
  static constexpr std::chrono::milliseconds PauseAfter(std::chrono::milliseconds pause) {
    return std::min(2 * pause, std::chrono::milliseconds(kMostDelay));
  }

  static constexpr Description<Config, 2> Describe() {
    return {"retry",
            "repeats what failed, except a flush",
            Family::kObserver,
            {{{.field = &Config::retries, .name = "retries", .help = "how often to repeat what failed", .max = kMostRetries},
              {.field = &Config::delay,
               .name = "retry-delay",
               .help = "how long to wait before repeating for the first time; doubles",
               .unit = Unit::kMilliseconds,
               .max = kMostDelay}}}};
  }

  static absl::Status Open(const Config& config, State& self) {
    if (absl::Status status = Below::Open(config.below, self.below); !status.ok()) return status;
    if (config.retries > kMostRetries || config.delay > kMostDelay) {
      return absl::InvalidArgumentError(
          absl::StrFormat("retry: %d repetitions after %d ms are too many or too late: the most is %d, after %d ms",
                          config.retries, config.delay, kMostRetries, kMostDelay));
    }
    self.retries = config.retries;
    self.delay = std::chrono::milliseconds(config.delay);
    return absl::OkStatus();
  }

  static uint64_t Size(const State& self) { return Below::Size(self.below); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    return Repeat(self, [&] { return Below::Read(self.below, offset, out); });
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    return Repeat(self, [&] { return Below::Write(self.below, offset, in); });
  }

  static absl::Status Flush(State& self) requires CanFlush<Below> { return Below::Flush(self.below); }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWriteThrough<Below> {
    return Below::WriteThrough(self.below, offset, in);
  }

  static absl::Status Trim(State& self, Range range) requires CanTrim<Below> {
    return Repeat(self, [&] { return Below::Trim(self.below, range); });
  }

  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<Below> {
    return Repeat(self, [&] { return Below::WriteZeroes(self.below, range); });
  }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) requires CanExtents<Below> {
    bool emitted = false;
    const auto attempt = [&] {
      return Below::Extents(self.below, range, [&](const Extent& extent) {
        emitted = true;
        return emit(extent);
      });
    };
    return Repeat(self, attempt, [&] { return !emitted; });
  }

  static absl::Status Residency(State& self, Range range, EmitResident emit) requires CanResidency<Below> {
    bool emitted = false;
    const auto attempt = [&] {
      return Below::Residency(self.below, range, [&](const Resident& resident) {
        emitted = true;
        return emit(resident);
      });
    };
    return Repeat(self, attempt, [&] { return !emitted; });
  }

  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<Below> {
    return Below::Prefetch(self.below, range);
  }

  static absl::Status View(State& self, Range range, Gather& gather) requires CanView<Below> {
    const Gather::Mark mark = gather.mark();
    const auto again = [&] {
      gather.Rewind(mark);
      return true;
    };
    return Repeat(
        self, [&] { return Below::View(self.below, range, gather); }, again);
  }

  static absl::Status Resize(State& self, uint64_t size) requires CanResize<Below> {
    return Repeat(self, [&] { return Below::Resize(self.below, size); });
  }

 private:
  static bool MayHelp(const absl::Status& status) {
    return status.code() == absl::StatusCode::kInternal || status.code() == absl::StatusCode::kUnavailable;
  }
  static bool Always() { return true; }

  // `again` prepares the next attempt, or declines it.
  template <class Attempt, class Again = bool (*)()>
  static absl::Status Repeat(const State& self, Attempt attempt, Again again = &Always) {
    absl::Status status = attempt();
    std::chrono::milliseconds delay = self.delay;
    for (uint64_t left = self.retries; left > 0 && MayHelp(status) && again(); --left) {
      std::this_thread::sleep_for(delay);
      delay = PauseAfter(delay);
      status = attempt();
    }
    return status;
  }
};

}  // namespace buse

#endif  // LAYERS_RETRY_H_
