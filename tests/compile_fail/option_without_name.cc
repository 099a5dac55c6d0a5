// SPDX-License-Identifier: Apache-2.0
//
// Illegal: a description that says it has two options and names one.

#include "buse/options.h"
#include "tests/leaves.h"

#ifdef ILLEGAL
constexpr size_t kOptions = 2;
#else
constexpr size_t kOptions = 1;
#endif

struct Leaf : buse::testing::Bare {
  static constexpr buse::Description<Config, kOptions> Describe() {
    return {"leaf", "keeps bytes", buse::Family::kLeaf, {{{.field = &Config::size, .name = "size", .help = "bytes"}}}};
  }
};

std::vector<buse::LayerInfo> Layers(Leaf::Config& config) { return buse::DescribeStack<Leaf>(config); }
