// SPDX-License-Identifier: Apache-2.0
//
// ReadOnly: takes away every operation that changes the device below, so that a type that can be written is served read-only.
//
// Family: observer.
// Guarantees: nothing below is changed by a request.
// Backing is passed on, unlike by other observers: they must see every read, while this one looks at none, and whoever asks
// for the file may only read it.
// Concurrency: that of the device below.
// Cost: none.
// Failure: that of the device below.
//
//   using Stack = buse::ReadOnly<buse::Memory>;
//   Stack::Config config{.below = {.size = 64 << 20}};

#ifndef LAYERS_READ_ONLY_H_
#define LAYERS_READ_ONLY_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/device.h"

namespace buse {

template <Device B>
struct ReadOnly {
  using Below = B;

  struct Config {
    typename Below::Config below;
  };

  struct State {
    typename Below::State below;
  };

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;
  static constexpr bool kMayPark = true;

  static constexpr Description<Config> Describe() {
    return {"readonly", "takes away every operation that changes the device below", Family::kObserver};
  }

  static absl::Status Open(const Config& config, State& self) { return Below::Open(config.below, self.below); }

  static uint64_t Size(const State& self) { return Below::Size(self.below); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) { return Below::Read(self.below, offset, out); }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) requires CanExtents<Below> {
    return Below::Extents(self.below, range, emit);
  }

  static absl::Status Residency(State& self, Range range, EmitResident emit) requires CanResidency<Below> {
    return Below::Residency(self.below, range, emit);
  }

  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<Below> {
    return Below::Prefetch(self.below, range);
  }

  static absl::Status View(State& self, Range range, Gather& gather) requires CanView<Below> {
    return Below::View(self.below, range, gather);
  }

  static bool TryRead(State& self, uint64_t offset, Bytes out) requires CanTryRead<Below> {
    return Below::TryRead(self.below, offset, out);
  }

  static std::optional<FileRange> Backing(State& self, Range range) requires CanBacking<Below> {
    return Below::Backing(self.below, range);
  }
};

}  // namespace buse

#endif  // LAYERS_READ_ONLY_H_
