// SPDX-License-Identifier: Apache-2.0
//
// Passthrough: hands every operation to the device below. The header to copy when writing a layer.
//
// Family: observer.
// Concurrency: that of the device below.
// Cost: none; the compiler removes it (tests/instruction_count_test).
// Failure: that of the device below.
//
//   using Stack = buse::Passthrough<buse::Memory>;
//   Stack::Config config{.below = {.size = 64 << 20}};

#ifndef LAYERS_PASSTHROUGH_H_
#define LAYERS_PASSTHROUGH_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/device.h"

namespace buse {

template <Device B>
struct Passthrough {
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

  static constexpr Description<Config> Describe() { return {"passthrough", "hands every operation on", Family::kObserver}; }

  static absl::Status Open(const Config& config, State& self) { return Below::Open(config.below, self.below); }

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

  static bool TryWrite(State& self, uint64_t offset, ConstBytes in) requires CanTryWrite<Below> {
    return Below::TryWrite(self.below, offset, in);
  }

  static absl::Status Place(State& self, Range range, Scatter& scatter) requires CanPlace<Below> {
    return Below::Place(self.below, range, scatter);
  }

  static absl::Status Placed(State& self, Range range) requires CanPlaced<Below> { return Below::Placed(self.below, range); }

  static absl::Status Resize(State& self, uint64_t size) requires CanResize<Below> { return Below::Resize(self.below, size); }
};

}  // namespace buse

#endif  // LAYERS_PASSTHROUGH_H_
