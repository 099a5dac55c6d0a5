// SPDX-License-Identifier: Apache-2.0
//
// Illegal: a layer that does not name the device below it, so that its options would vanish from the command line.

#include "buse/options.h"
#include "tests/leaves.h"

using Leaf = buse::testing::Bare;

struct Layer {
#ifndef ILLEGAL
  using Below = Leaf;
#endif
  struct Config {
    Leaf::Config below;
  };
  struct State {
    Leaf::State below;
  };
  static constexpr uint64_t kBlockSize = Leaf::kBlockSize;
  static constexpr buse::Concurrency kConcurrency = Leaf::kConcurrency;
  static constexpr buse::Description<Config> Describe() { return {"layer", "does nothing", buse::Family::kObserver}; }
  static absl::Status Open(const Config& config, State& self) { return Leaf::Open(config.below, self.below); }
  static uint64_t Size(const State& self) { return Leaf::Size(self.below); }
  static absl::Status Read(State& self, uint64_t offset, buse::Bytes out) { return Leaf::Read(self.below, offset, out); }
};

std::vector<buse::LayerInfo> Layers(Layer::Config& config) { return buse::DescribeStack<Layer>(config); }
