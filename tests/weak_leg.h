// SPDX-License-Identifier: Apache-2.0
//
// WeakLeg: a leg of a mirror or parity that may be missing, or refuse changes.

#ifndef TESTS_WEAK_LEG_H_
#define TESTS_WEAK_LEG_H_

#include <cstdint>

#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/device.h"

namespace buse::testing {

template <Device B>
struct WeakLeg {
  using Below = B;

  struct Config {
    bool missing = false;
    Range refused = {};  // every change there fails
    typename Below::Config below;
  };
  struct State {
    typename Below::State below;
    Range refused = {};
  };

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;

  static constexpr Description<Config> Describe() { return {"weak-leg", "a leg that fails, for tests", Family::kObserver}; }

  static absl::Status Open(const Config& config, State& self) {
    if (config.missing) return absl::InternalError("the leg is missing");
    self.refused = config.refused;
    return Below::Open(config.below, self.below);
  }
  static uint64_t Size(const State& self) { return Below::Size(self.below); }
  static absl::Status Read(State& self, uint64_t offset, Bytes out) { return Below::Read(self.below, offset, out); }
  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    return Refuses(self, {offset, in.size()}) ? Refused() : Below::Write(self.below, offset, in);
  }
  static absl::Status Flush(State& self) { return Below::Flush(self.below); }
  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWriteThrough<Below> {
    return Refuses(self, {offset, in.size()}) ? Refused() : Below::WriteThrough(self.below, offset, in);
  }
  static absl::Status Trim(State& self, Range range) requires CanTrim<Below> {
    return Refuses(self, range) ? Refused() : Below::Trim(self.below, range);
  }
  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<Below> {
    return Refuses(self, range) ? Refused() : Below::WriteZeroes(self.below, range);
  }

 private:
  static bool Refuses(const State& self, Range range) {
    return range.offset < self.refused.end() && self.refused.offset < range.end();
  }
  static absl::Status Refused() { return absl::InternalError("the leg refuses the change"); }
};

}  // namespace buse::testing

#endif  // TESTS_WEAK_LEG_H_
