// SPDX-License-Identifier: Apache-2.0

#include "layers/read_ahead.h"

#include <cstdint>

#include "gtest/gtest.h"

namespace buse::testing {
namespace {

constexpr uint64_t kK = 1024;

TEST(ReadAheadTest, GrowsWithAStreamUpToTheWindow) {
  ReadAhead ahead;
  ahead.Open(100 * kK);
  EXPECT_EQ(ahead.Miss({8 * kK, 4 * kK}), 0u);
  EXPECT_EQ(ahead.Miss({12 * kK, 4 * kK}), 16 * kK);
  EXPECT_EQ(ahead.Miss({32 * kK, 4 * kK}), 32 * kK);
  EXPECT_EQ(ahead.Miss({68 * kK, 4 * kK}), 64 * kK);
  EXPECT_EQ(ahead.Miss({136 * kK, 4 * kK}), 100 * kK);
  EXPECT_EQ(ahead.Miss({240 * kK, 4 * kK}), 100 * kK);
}

TEST(ReadAheadTest, RandomMissesAreNoStream) {
  ReadAhead ahead;
  ahead.Open(100 * kK);
  for (uint64_t i = 0; i < 100; ++i) EXPECT_EQ(ahead.Miss({i * 37 % 101 * 8 * kK, 4 * kK}), 0u);
}

TEST(ReadAheadTest, FollowsEightStreamsAtOnce) {
  ReadAhead ahead;
  ahead.Open(16 * kK);
  const auto read_all = [&](uint64_t streams, uint64_t at) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < streams; ++i) sum += ahead.Miss({(i << 30) + at, 4 * kK});
    return sum;
  };
  EXPECT_EQ(read_all(8, 0), 0u);
  EXPECT_EQ(read_all(8, 4 * kK), 8 * 16 * kK);
  EXPECT_EQ(read_all(9, 24 * kK), 8 * 16 * kK);  // the ninth comes in place of the first
  EXPECT_EQ(ahead.Miss({44 * kK, 4 * kK}), 0u);
}

// What was read ahead need not all be missed.
TEST(ReadAheadTest, AStreamMaySkipWhatWasReadAhead) {
  ReadAhead ahead;
  ahead.Open(100 * kK);
  ahead.Miss({0, 4 * kK});
  ASSERT_EQ(ahead.Miss({4 * kK, 4 * kK}), 16 * kK);
  EXPECT_EQ(ahead.Miss({16 * kK, 4 * kK}), 32 * kK);
}

TEST(ReadAheadTest, AWindowOfZeroTurnsItOff) {
  ReadAhead ahead;
  ahead.Open(0);
  ahead.Miss({0, 4 * kK});
  EXPECT_EQ(ahead.Miss({4 * kK, 4 * kK}), 0u);
}

}  // namespace
}  // namespace buse::testing
