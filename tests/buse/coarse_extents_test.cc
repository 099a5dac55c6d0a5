// SPDX-License-Identifier: Apache-2.0

#include "buse/coarse_extents.h"

#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace buse {
namespace {

using Kind = Extent::Kind;
constexpr Kind kData = Kind::kData, kZero = Kind::kZero, kHole = Kind::kHole;

struct Part {
  uint64_t length;
  Kind kind;
};

std::vector<Extent> Coarsen(Range range, uint64_t granularity, const std::vector<Part>& runs, size_t most = SIZE_MAX) {
  std::vector<Extent> out;
  const auto emit = [&](const Extent& extent) {
    out.push_back(extent);
    return out.size() < most;
  };
  CoarseExtents coarse(range, granularity, emit);
  uint64_t at = range.offset;
  for (const Part& run : runs) {
    const bool more = coarse.Add({{at, run.length}, run.kind});
    at += run.length;
    EXPECT_EQ(coarse.rest(), (Range{at, range.end() - at}));
    EXPECT_EQ(more, coarse.WantsMore());
    if (!more) break;
  }
  coarse.Finish();
  return out;
}

TEST(CoarseExtentsTest, AlikeNeighboursBecomeOne) {
  EXPECT_EQ(Coarsen({0, 4096}, 512, {{512, kHole}, {1024, kHole}, {512, kData}, {512, kData}, {1536, kZero}}),
            (std::vector<Extent>{{{0, 1536}, kHole}, {{1536, 1024}, kData}, {{2560, 1536}, kZero}}));
}

TEST(CoarseExtentsTest, HolesShrinkToTheGranularity) {
  EXPECT_EQ(Coarsen({0, 4096}, 512, {{100, kData}, {2000, kHole}, {1996, kData}}),
            (std::vector<Extent>{{{0, 512}, kData}, {{512, 1536}, kHole}, {{2048, 2048}, kData}}));
  EXPECT_EQ(Coarsen({0, 4096}, 512, {{100, kData}, {500, kHole}, {3496, kData}}), (std::vector<Extent>{{{0, 4096}, kData}}));
}

TEST(CoarseExtentsTest, TheEndsOfTheRangeNeedNotFit) {
  EXPECT_EQ(Coarsen({100, 800}, 512, {{800, kHole}}), (std::vector<Extent>{{{100, 800}, kHole}}));
  EXPECT_EQ(Coarsen({100, 800}, 512, {{500, kHole}, {300, kData}}),
            (std::vector<Extent>{{{100, 412}, kHole}, {{512, 388}, kData}}));
}

TEST(CoarseExtentsTest, BetweenAHoleAndZeroesThatMeetAtAnOddPlaceIsData) {
  EXPECT_EQ(Coarsen({0, 2048}, 512, {{700, kHole}, {1348, kZero}}),
            (std::vector<Extent>{{{0, 512}, kHole}, {{512, 512}, kData}, {{1024, 1024}, kZero}}));
}

TEST(CoarseExtentsTest, EndsWhenThereIsEnough) {
  EXPECT_EQ(Coarsen({0, 4096}, 512, {{512, kHole}, {512, kData}, {512, kHole}, {2560, kData}}, 1),
            (std::vector<Extent>{{{0, 512}, kHole}}));
}

TEST(CoarseExtentsTest, EndsWhenItTakesTooLong) {
  int added = 0;
  uint64_t told = 0;
  const auto emit = [&](const Extent& extent) {
    told += extent.range.length;
    return true;
  };
  CoarseExtents coarse({0, uint64_t{1} << 62}, 512, emit);
  while (coarse.WantsMore()) {
    coarse.Add({{static_cast<uint64_t>(added) * 4096, 4096}, kData});
    ++added;
  }
  coarse.Finish();
  EXPECT_LE(added, 1 << 16);
  EXPECT_EQ(told, static_cast<uint64_t>(added) * 4096) << "what was seen is told";
}

// Whatever comes in: what goes out covers the range once, in order, alternates, and calls nothing a hole that is none.
TEST(CoarseExtentsTest, NeverClaimsMoreThanItWasTold) {
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    const uint64_t granularity = uint64_t{1} << random() % 6;
    const uint64_t begin = random() % 100;
    std::vector<Part> runs;
    std::string told;
    for (int i = random() % 12 + 1; i > 0; --i) {
      runs.push_back({random() % 60 + 1, static_cast<Kind>(random() % 3)});
      told.append(runs.back().length, "dzh"[static_cast<int>(runs.back().kind)]);
    }
    const Range range = {begin, told.size()};
    uint64_t at = begin;
    Kind before = kData;
    for (const Extent& extent : Coarsen(range, granularity, runs)) {
      ASSERT_EQ(extent.range.offset, at);
      ASSERT_GT(extent.range.length, 0u);
      if (at != begin) {
        ASSERT_NE(extent.kind, before);
        ASSERT_EQ(at % granularity, 0u);
      }
      before = extent.kind;
      for (; at < extent.range.end(); ++at) {
        if (extent.kind == kData) continue;
        ASSERT_EQ(told[at - begin], extent.kind == kZero ? 'z' : 'h') << "round " << round << " at " << at;
      }
    }
    ASSERT_EQ(at, range.end());
  }
}

}  // namespace
}  // namespace buse
