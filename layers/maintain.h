// SPDX-License-Identifier: Apache-2.0
//
// Maintain: rebuilds and scrubs the device below in the background, at set rates, and tells how far it is.
//
// Family: observer.
// Passes on: every operation that a Mirror or a Parity has. It is put right over one.
// Concurrency: that of the device below, which must take any calls: there is one more caller, a thread of this layer's own.
// Cost: a look at the status ten times a second, the file for it written anew every second, and what the rates allow; a request
// may wait for a step of 256 KiB of each leg. Legs that are to be rebuilt come before scrubbing. Scrubbing begins at the beginning
// when the server starts.
// Failure: what cannot be read is counted in the status. Open fails where the file for the status cannot be written.
//
//   using Stack = buse::Maintain<buse::Parity<4, 2, buse::FileBacked>>;
//   Stack::Config config{.scrub_rate = 4 << 20, .status = "status.json", .below = ...};

#ifndef LAYERS_MAINTAIN_H_
#define LAYERS_MAINTAIN_H_

#include <concepts>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_join.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "buse/options.h"
#include "layers/legs_status.h"
#include "layers/maintenance.h"

namespace buse {

// Whether a device has legs to rebuild and scrub, and says how they are.
template <class B>
concept CanMaintain = requires(typename B::State& self, uint64_t bytes) {
  { B::Rebuild(self, bytes) } -> std::same_as<absl::StatusOr<uint64_t>>;
  { B::Scrub(self, bytes) } -> std::same_as<absl::StatusOr<uint64_t>>;
  { B::Status(self) } -> std::same_as<LegsStatus>;
};

template <Device B>
struct Maintain {
  static_assert(CanMaintain<B>, "buse: Maintain is put over a device with legs to rebuild: a Mirror or a Parity");
  static_assert(B::kConcurrency == Concurrency::kParallel,
                "buse: Maintain calls the device below beside its users: that must take any calls at once");

  using Below = B;

  struct Config {
    uint64_t rebuild_rate = 64 << 20;
    uint64_t scrub_rate = 0;
    std::string status;
    bool still = false;  // no thread, and no status: for whoever opens it to look at it
    typename Below::Config below;
  };

  struct State {
    typename Below::State below;
    Maintenance maintenance;  // ends before what it uses
  };

  // The program of such a stack has the verb "status".
  static constexpr bool kKeepsStatus = true;

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;

  static constexpr Description<Config, 3> Describe() {
    return {"maintain",
            "rebuilds and scrubs in the background",
            Family::kObserver,
            {{{.field = &Config::rebuild_rate,
               .name = "rebuild-rate",
               .help = "bytes of each leg to rebuild in a second",
               .unit = Unit::kBytes},
              {.field = &Config::scrub_rate,
               .name = "scrub-rate",
               .help = "bytes of each leg to read and compare in a second; 0: none",
               .unit = Unit::kBytes},
              {.field = &Config::status,
               .name = "status",
               .help = "file to keep the status in, as JSON; the verb status shows it"}}}};
  }

  static absl::Status Open(const Config& config, State& self) {
    if (absl::Status status = Below::Open(config.below, self.below); !status.ok()) return status;
    if (config.still) return absl::OkStatus();
    typename Below::State& below = self.below;
    return self.maintenance.Start({.rebuild = [&below](uint64_t bytes) { return Below::Rebuild(below, bytes); },
                                   .scrub = [&below](uint64_t bytes) { return Below::Scrub(below, bytes); },
                                   .status = [&below] { return Below::Status(below); }},
                                  {.rebuild_rate = config.rebuild_rate,
                                   .scrub_rate = config.scrub_rate,
                                   .status_file = config.status,
                                   .layer = Below::Describe().name,
                                   .media = Media(config.below)});
  }

  static void KeepStill(Config& config) { config.still = true; }

  static uint64_t Size(const State& self) { return Below::Size(self.below); }
  static absl::Status Read(State& self, uint64_t offset, Bytes out) { return Below::Read(self.below, offset, out); }
  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    return Below::Write(self.below, offset, in);
  }
  static absl::Status Flush(State& self) requires CanFlush<Below> { return Below::Flush(self.below); }
  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWriteThrough<Below> {
    return Below::WriteThrough(self.below, offset, in);
  }
  static absl::Status Trim(State& self, Range range) requires CanTrim<Below> { return Below::Trim(self.below, range); }
  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<Below> {
    return Below::WriteZeroes(self.below, range);
  }
  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<Below> {
    return Below::Prefetch(self.below, range);
  }

 private:
  // What each leg lies on.
  static std::vector<std::string> Media(const typename Below::Config& config) {
    std::vector<std::string> media;
    medium_internal::ForEachBelow<typename Below::Below>([&]<class Leg>(auto leg, Leg*) {
      typename Leg::Config described = std::get<leg>(config.below);
      media.push_back(absl::StrJoin(MediaOf(DescribeStack<Leg>(described)), ", "));
      return true;
    });
    return media;
  }
};

}  // namespace buse

#endif  // LAYERS_MAINTAIN_H_
