// SPDX-License-Identifier: Apache-2.0
//
// RangeLock: takes any calls at the same time and lets those that do not overlap run together, so that a device that bears only
// such calls can stand below what makes others.
//
// Family: observer.
// Guarantees: calls that overlap reach the device below one after another, in the order they came; a Resize overlaps every
// call, and a Flush only a Resize.
// Passes on: every operation below has, except Backing; and View only where the device below is kParallel already. What a View
// lends is used, and its release actions run, after the call and so without the lock, which no other device need bear.
// Concurrency: kParallel over kDisjoint. It holds a range locked across the call below, since that is its purpose; what Extents
// emits to must therefore not call the device. Over kParallel it does nothing. Over kSerial it does not compile.
// Cost: two short critical sections per call. Size takes none: it is a number that Resize leaves here.
// Failure: that of the device below.
//
//   using Stack = buse::RangeLock<buse::Verify<buse::FileBacked, buse::FileBacked>>;
//   Stack::Config config{.below = {{{.path = "a.img"}, {.path = "b.img"}}}};

#ifndef LAYERS_RANGE_LOCK_H_
#define LAYERS_RANGE_LOCK_H_

#include <atomic>
#include <cstdint>
#include <type_traits>

#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/range_mutex.h"

namespace buse {

template <Device B>
struct RangeLock {
  using Below = B;

  static_assert(Below::kConcurrency != Concurrency::kSerial,
                "buse: RangeLock lets calls run together that do not overlap, and the device below takes one at a time: use "
                "Serialize");

  struct Config {
    typename Below::Config below;
  };

  struct NoLock {};
  static constexpr bool kLocks = Below::kConcurrency != Concurrency::kParallel;

  struct State {
    typename Below::State below;
    [[no_unique_address]] std::conditional_t<kLocks, RangeMutex, NoLock> ranges;
    std::atomic<uint64_t> size = 0;
  };

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Concurrency::kParallel;

  static constexpr Description<Config> Describe() {
    return {"range-lock", "makes calls that overlap one after another", Family::kObserver};
  }

  static absl::Status Open(const Config& config, State& self) {
    absl::Status status = Below::Open(config.below, self.below);
    if (status.ok()) self.size = Below::Size(self.below);
    return status;
  }

  static uint64_t Size(const State& self) { return self.size; }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    [[maybe_unused]] const auto lock = Lock(self, {offset, out.size()});
    return Below::Read(self.below, offset, out);
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    [[maybe_unused]] const auto lock = Lock(self, {offset, in.size()});
    return Below::Write(self.below, offset, in);
  }

  static absl::Status Flush(State& self) requires CanFlush<Below> {
    // A byte that no request has: it waits for Resize only, and for no other Flush.
    [[maybe_unused]] const auto lock = Lock(self, {UINT64_MAX - 1, 1}, RangeMutex::Mode::kShared);
    return Below::Flush(self.below);
  }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWriteThrough<Below> {
    [[maybe_unused]] const auto lock = Lock(self, {offset, in.size()});
    return Below::WriteThrough(self.below, offset, in);
  }

  static absl::Status Trim(State& self, Range range) requires CanTrim<Below> {
    [[maybe_unused]] const auto lock = Lock(self, range);
    return Below::Trim(self.below, range);
  }

  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<Below> {
    [[maybe_unused]] const auto lock = Lock(self, range);
    return Below::WriteZeroes(self.below, range);
  }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) requires CanExtents<Below> {
    [[maybe_unused]] const auto lock = Lock(self, range);
    return Below::Extents(self.below, range, emit);
  }

  static absl::Status Residency(State& self, Range range, EmitResident emit) requires CanResidency<Below> {
    [[maybe_unused]] const auto lock = Lock(self, range);
    return Below::Residency(self.below, range, emit);
  }

  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<Below> {
    [[maybe_unused]] const auto lock = Lock(self, range);
    return Below::Prefetch(self.below, range);
  }

  static absl::Status View(State& self, Range range, Gather& gather) requires(CanView<Below> && !kLocks) {
    return Below::View(self.below, range, gather);
  }

  static absl::Status Resize(State& self, uint64_t size) requires CanResize<Below> {
    [[maybe_unused]] const auto lock = Lock(self, {0, UINT64_MAX});
    absl::Status status = Below::Resize(self.below, size);
    self.size = Below::Size(self.below);
    return status;
  }

 private:
  // Reads exclude each other too, as kDisjoint says. The blocks of a range are the range: it comes aligned.
  static auto Lock(State& self, Range range, RangeMutex::Mode mode = RangeMutex::Mode::kExclusive) {
    if constexpr (kLocks) {
      return RangeMutex::Guard(self.ranges, range, mode);
    } else {
      return NoLock{};
    }
  }
};

}  // namespace buse

#endif  // LAYERS_RANGE_LOCK_H_
