// SPDX-License-Identifier: Apache-2.0
//
// Serialize: takes any calls at the same time and makes them one after another, so that a device that bears one call at a time
// can stand below what makes many.
//
// Family: observer.
// Guarantees: no two calls on the device below run at the same time.
// Passes on: every operation below has, except Backing; and View only where the device below is kParallel already. What a View
// lends is used, and its release actions run, after the call and so without the lock, which no other device need bear.
// Concurrency: kParallel over any device. It holds its lock across the call below, since that is its purpose; what Extents
// emits to must therefore not call the device.
// Cost: one mutex, for which calls wait in no certain order. Size takes none: it is a number that Resize leaves here.
// Failure: that of the device below.
//
//   using Stack = buse::Serialize<buse::MyDevice>;
//   Stack::Config config{.below = {.path = "disk.img"}};

#ifndef LAYERS_SERIALIZE_H_
#define LAYERS_SERIALIZE_H_

#include <atomic>
#include <cstdint>
#include <mutex>

#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/device.h"

namespace buse {

template <Device B>
struct Serialize {
  using Below = B;

  struct Config {
    typename Below::Config below;
  };

  struct State {
    typename Below::State below;
    std::mutex mutex;
    std::atomic<uint64_t> size = 0;
  };

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Concurrency::kParallel;

  static constexpr Description<Config> Describe() { return {"serialize", "makes one call after another", Family::kObserver}; }

  static absl::Status Open(const Config& config, State& self) {
    absl::Status status = Below::Open(config.below, self.below);
    if (status.ok()) self.size = Below::Size(self.below);
    return status;
  }

  static uint64_t Size(const State& self) { return self.size; }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    std::lock_guard lock(self.mutex);
    return Below::Read(self.below, offset, out);
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    std::lock_guard lock(self.mutex);
    return Below::Write(self.below, offset, in);
  }

  static absl::Status Flush(State& self) requires CanFlush<Below> {
    std::lock_guard lock(self.mutex);
    return Below::Flush(self.below);
  }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWriteThrough<Below> {
    std::lock_guard lock(self.mutex);
    return Below::WriteThrough(self.below, offset, in);
  }

  static absl::Status Trim(State& self, Range range) requires CanTrim<Below> {
    std::lock_guard lock(self.mutex);
    return Below::Trim(self.below, range);
  }

  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<Below> {
    std::lock_guard lock(self.mutex);
    return Below::WriteZeroes(self.below, range);
  }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) requires CanExtents<Below> {
    std::lock_guard lock(self.mutex);
    return Below::Extents(self.below, range, emit);
  }

  static absl::Status Residency(State& self, Range range, EmitResident emit) requires CanResidency<Below> {
    std::lock_guard lock(self.mutex);
    return Below::Residency(self.below, range, emit);
  }

  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<Below> {
    std::lock_guard lock(self.mutex);
    return Below::Prefetch(self.below, range);
  }

  static absl::Status View(State& self, Range range,
                           Gather& gather) requires(CanView<Below>&& Below::kConcurrency == Concurrency::kParallel) {
    std::lock_guard lock(self.mutex);
    return Below::View(self.below, range, gather);
  }

  static absl::Status Resize(State& self, uint64_t size) requires CanResize<Below> {
    std::lock_guard lock(self.mutex);
    absl::Status status = Below::Resize(self.below, size);
    self.size = Below::Size(self.below);
    return status;
  }
};

}  // namespace buse

#endif  // LAYERS_SERIALIZE_H_
