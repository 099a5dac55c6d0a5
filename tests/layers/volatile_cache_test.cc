// SPDX-License-Identifier: Apache-2.0
//
// VolatileCache: what it overlays, keeps and forgets, and which values it gives for the doubts, against a model that follows
// every byte.

#include "layers/volatile_cache.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/device.h"
#include "gtest/gtest.h"

namespace buse {
namespace {

using Kind = VolatileCache::Kind;
using Medium = std::vector<std::byte>;
using Values = std::vector<Medium>;

Medium Filled(size_t size, int value) { return Medium(size, static_cast<std::byte>(value)); }

std::vector<VolatileCache::Doubt> Doubts(const VolatileCache& cache, uint64_t window, const Medium& medium) {
  const auto read = [&](uint64_t offset, Bytes out) {
    EXPECT_LE(offset + out.size(), medium.size());
    std::memcpy(out.data(), medium.data() + offset, out.size());
    return absl::OkStatus();
  };
  absl::StatusOr<std::vector<VolatileCache::Doubt>> doubts = cache.Doubts(window, medium.size(), read);
  EXPECT_TRUE(doubts.ok()) << doubts.status();
  return *doubts;
}

TEST(VolatileCacheTest, OverlaysInTheOrderItCame) {
  VolatileCache cache;
  EXPECT_TRUE(cache.empty());
  cache.Add(Kind::kData, {2, 4}, Filled(4, 1));
  cache.Add(Kind::kTrim, {3, 1}, {});
  cache.Add(Kind::kData, {5, 2}, Filled(2, 2));
  EXPECT_EQ(cache.bytes(), 7u) << "each counted by itself";
  Medium out = Filled(6, 9);
  cache.Overlay(1, out);
  const std::byte expected[] = {std::byte{9}, std::byte{1}, std::byte{0}, std::byte{1}, std::byte{2}, std::byte{2}};
  EXPECT_TRUE(std::equal(out.begin(), out.end(), std::begin(expected)));
  cache.RemoveOldest();
  EXPECT_EQ(cache.bytes(), 3u);
  cache.Clear();
  EXPECT_TRUE(cache.empty());
  EXPECT_EQ(cache.bytes(), 0u);
}

TEST(VolatileCacheTest, ForEachGivesThePartsInOrderUpToTheFirstError) {
  VolatileCache cache;
  cache.Add(Kind::kData, {0, 100}, Filled(100, 1));
  cache.Add(Kind::kZeroes, {200, 10}, {});
  cache.Add(Kind::kTrim, {50, 100}, {});
  std::vector<Range> ranges;
  std::vector<Kind> kinds;
  const auto collect = [&](const VolatileCache::Part& part) {
    ranges.push_back(part.range);
    kinds.push_back(part.kind);
    EXPECT_EQ(part.data.size(), part.kind == Kind::kData ? part.range.length : 0);
    return absl::OkStatus();
  };
  EXPECT_TRUE(cache.ForEach({90, 20}, collect).ok());
  EXPECT_EQ(ranges, (std::vector<Range>{{90, 10}, {90, 20}}));
  EXPECT_EQ(kinds, (std::vector{Kind::kData, Kind::kTrim}));
  int calls = 0;
  const auto fail = [&](const VolatileCache::Part&) {
    ++calls;
    return absl::InternalError("no");
  };
  EXPECT_EQ(cache.ForEach({90, 20}, fail), absl::InternalError("no"));
  EXPECT_EQ(calls, 1);
}

TEST(VolatileCacheTest, RemoveForgetsTheRangeAndKeepsBothSides) {
  VolatileCache cache;
  cache.Add(Kind::kData, {0, 2048}, Filled(2048, 1));
  cache.Add(Kind::kTrim, {512, 512}, {});
  cache.Remove({512, 512});
  EXPECT_EQ(cache.bytes(), 1536u);
  Medium out = Filled(2048, 9);
  cache.Overlay(0, out);
  Medium want = Filled(2048, 1);
  std::fill_n(want.begin() + 512, 512, std::byte{9});
  EXPECT_EQ(out, want);
}

TEST(VolatileCacheTest, AChangeOfAPartOfASectorIsOneOfTheSector) {
  VolatileCache cache;
  cache.Add(Kind::kData, {510, 4}, Filled(4, 1));
  const std::vector<VolatileCache::Doubt> doubts = Doubts(cache, 512, Filled(1000, 9));
  ASSERT_EQ(doubts.size(), 2u);
  EXPECT_EQ(doubts[0].range, (Range{0, 512}));
  EXPECT_EQ(doubts[1].range, (Range{512, 488})) << "up to the end of the medium";
  for (const VolatileCache::Doubt& doubt : doubts) {
    ASSERT_EQ(doubt.values.size(), 2u);
    EXPECT_EQ(doubt.values[0], Filled(doubt.range.length, 9)) << "first what is there now";
  }
}

TEST(VolatileCacheTest, AnErrorOfReadingIsPassedOn) {
  VolatileCache cache;
  cache.Add(Kind::kTrim, {0, 1}, {});
  const auto read = [](uint64_t, Bytes) { return absl::DataLossError("bad"); };
  EXPECT_EQ(cache.Doubts(512, 512, read).status(), absl::DataLossError("bad"));
}

// Random changes: the values of each sector are those it had, in that order and each once. A larger window has values that
// those of its sectors can be combined to.
TEST(VolatileCacheTest, TheDoubtsAreTheHistoriesOfTheSectors) {
  constexpr uint64_t kSector = 16;
  constexpr uint64_t kSize = 5 * kSector + 7;
  std::mt19937_64 random(1);
  for (int round = 0; round < 500; ++round) {
    SCOPED_TRACE(round);
    const Medium medium = Filled(kSize, 1);
    VolatileCache cache;
    Medium now = medium;
    std::vector<Values> histories;
    for (uint64_t at = 0; at < kSize; at += kSector) {
      histories.push_back({Medium(now.begin() + at, now.begin() + std::min(at + kSector, kSize))});
    }
    for (uint64_t changes = random() % 6; changes > 0; --changes) {
      const uint64_t offset = random() % kSize;
      const Range range = {offset, 1 + random() % std::min<uint64_t>(kSize - offset, 40)};
      const Kind kind = std::vector{Kind::kData, Kind::kZeroes, Kind::kTrim}[random() % 3];
      const Medium data = Filled(range.length, kind == Kind::kData ? 1 + static_cast<int>(random() % 3) : 0);
      cache.Add(kind, range, kind == Kind::kData ? ConstBytes(data) : ConstBytes());
      std::copy(data.begin(), data.end(), now.begin() + offset);
      for (uint64_t i = 0; i < histories.size(); ++i) {
        const Medium value(now.begin() + i * kSector, now.begin() + std::min((i + 1) * kSector, kSize));
        Values& history = histories[i];
        if (std::find(history.begin(), history.end(), value) == history.end()) history.push_back(value);
      }
    }
    std::vector<Values> found(histories.size());
    for (uint64_t i = 0; i < found.size(); ++i) found[i] = {histories[i][0]};
    uint64_t last = 0;
    for (const VolatileCache::Doubt& doubt : Doubts(cache, kSector, medium)) {
      EXPECT_EQ(doubt.range.offset % kSector, 0u);
      EXPECT_TRUE(doubt.range.offset == 0 || doubt.range.offset > last) << "ascending";
      last = doubt.range.offset;
      EXPECT_GT(doubt.values.size(), 1u) << "else there is no doubt";
      found[doubt.range.offset / kSector] = doubt.values;
    }
    EXPECT_EQ(found, histories);
    for (const VolatileCache::Doubt& doubt : Doubts(cache, 2 * kSector, medium)) {
      for (const Medium& value : doubt.values) {
        for (uint64_t at = 0; at < value.size(); at += kSector) {
          const Values& history = histories[(doubt.range.offset + at) / kSector];
          const Medium part(value.begin() + at, value.begin() + std::min<uint64_t>(at + kSector, value.size()));
          EXPECT_NE(std::find(history.begin(), history.end(), part), history.end());
        }
      }
    }
  }
}

}  // namespace
}  // namespace buse
