// SPDX-License-Identifier: Apache-2.0
//
// Illegal: a device with Place that lacks Placed.

#include <cstdint>

#include "layers/passthrough.h"
#include "tests/leaves.h"

struct Leaf {
  using Base = buse::testing::Full;
  using Config = Base::Config;
  using State = Base::State;

  static constexpr uint64_t kBlockSize = Base::kBlockSize;
  static constexpr buse::Concurrency kConcurrency = Base::kConcurrency;

  static constexpr auto Describe() { return Base::Describe(); }
  static absl::Status Open(const Config& config, State& self) { return Base::Open(config, self); }
  static uint64_t Size(const State& self) { return Base::Size(self); }
  static absl::Status Read(State& self, uint64_t offset, buse::Bytes out) { return Base::Read(self, offset, out); }
  static absl::Status Write(State& self, uint64_t offset, buse::ConstBytes in) { return Base::Write(self, offset, in); }
  static absl::Status Flush(State& self) { return Base::Flush(self); }
  static absl::Status Place(State& self, buse::Range range, buse::Scatter& scatter) {
    return Base::Place(self, range, scatter);
  }
#ifndef ILLEGAL
  static absl::Status Placed(State& self, buse::Range range) { return Base::Placed(self, range); }
#endif
};

[[maybe_unused]] buse::Passthrough<Leaf>::State state;
