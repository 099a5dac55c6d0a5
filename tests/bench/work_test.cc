// SPDX-License-Identifier: Apache-2.0

#include "bench/work.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"

namespace buse::bench {
namespace {

TEST(WorkTest, SaysAllOfItsParts) {
  EXPECT_EQ(*Work::Parse("4k-randread-d32"), (Work{.block = 4096, .random = true, .read_percent = 100, .depth = 32}));
  EXPECT_EQ(*Work::Parse("256k-seqwrite-d8-c4-f16"),
            (Work{.block = 256 << 10, .random = false, .read_percent = 0, .depth = 8, .connections = 4, .flush_every = 16}));
  EXPECT_EQ(*Work::Parse("512-randrw-d1"), (Work{.block = 512, .random = true, .read_percent = 50, .depth = 1}));
  EXPECT_EQ(Work::Parse("1m-seqread-d2")->block, 1u << 20);
}

TEST(WorkTest, NamesWhatIsWrong) {
  const auto said = [](const char* name) { return std::string(Work::Parse(name).status().message()); };
  for (const char* name : {"", "4k", "4k-randread", "4k-randread-x3", "4k-randread-c2", "4k-randread-d0", "4k-randread-d257",
                           "5m-randread-d1", "100-randread-d1", "4k-random-d1", "4k-randread-d1-f1", "99999999999k-randread-d1",
                           "4k-randread-d1-c0", "4k-randread-d1-"}) {
    EXPECT_EQ(Work::Parse(name).status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_NE(said(name).find("4k-randread-d32"), std::string::npos) << "an example teaches: " << said(name);
  }
  EXPECT_NE(said("4k-random-d1").find("randread, randwrite"), std::string::npos);
  EXPECT_NE(said("4k-randread-d257").find("d1 to d256"), std::string::npos);
  EXPECT_NE(said("4k-randread-d1-f1").find("reads need no flush"), std::string::npos);
}

}  // namespace
}  // namespace buse::bench
