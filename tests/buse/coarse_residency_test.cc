// SPDX-License-Identifier: Apache-2.0

#include "buse/coarse_residency.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace buse {
namespace {

struct Part {
  uint64_t length;
  bool cached = false;
  bool dirty = false;
};

std::vector<Resident> Coarsen(Range range, uint64_t unit, const std::vector<Part>& parts, size_t most = SIZE_MAX) {
  std::vector<Resident> out;
  const auto emit = [&](const Resident& resident) {
    out.push_back(resident);
    return out.size() < most;
  };
  CoarseResidency coarse(range, unit, emit);
  uint64_t at = range.offset;
  for (const Part& part : parts) {
    const bool more = coarse.Add({{at, part.length}, part.cached, part.dirty});
    at += part.length;
    EXPECT_EQ(coarse.rest(), (Range{at, range.end() - at}));
    EXPECT_EQ(coarse.in_unit(), at % unit != 0);
    EXPECT_EQ(more, coarse.WantsMore());
    if (!more) break;
  }
  coarse.Finish();
  return out;
}

TEST(CoarseResidencyTest, AlikeNeighboursBecomeOne) {
  EXPECT_EQ(Coarsen({100, 100}, 1, {{10}, {20}, {30, true}, {5, true}, {5, true, true}, {30}}),
            (std::vector<Resident>{{{100, 30}}, {{130, 35}, true}, {{165, 5}, true, true}, {{170, 30}}}));
}

TEST(CoarseResidencyTest, AUnitIsCachedWhereAllOfItIsAndDirtyWherePartOfItIs) {
  EXPECT_EQ(Coarsen({4096, 4096}, 1024, {{1500, true}, {100, true, true}, {1000, true}, {1496}}),
            (std::vector<Resident>{{{4096, 1024}, true}, {{5120, 1024}, true, true}, {{6144, 2048}}}));
  EXPECT_EQ(Coarsen({0, 1024}, 1024, {{1, true, true}, {1023}}), (std::vector<Resident>{{{0, 1024}, false, true}}));
}

TEST(CoarseResidencyTest, EndsWhenThereIsEnough) {
  EXPECT_EQ(Coarsen({0, 4096}, 512, {{512}, {512, true}, {512}, {2560}}, 1), (std::vector<Resident>{{{0, 512}}}));
}

TEST(CoarseResidencyTest, AUnitThatIsNotCompleteIsNotTold) {
  EXPECT_EQ(Coarsen({0, 4096}, 1024, {{1024, true}, {1000}}), (std::vector<Resident>{{{0, 1024}, true}}));
}

// Against what every byte says.
TEST(CoarseResidencyTest, TellsOfEveryUnitWhatItsBytesSay) {
  std::mt19937 random(7);
  for (int round = 0; round < 500; ++round) {
    const uint64_t unit = uint64_t{1} << random() % 6, units = 1 + random() % 20;
    const Range range = {random() % 5 * unit, units * unit};
    std::vector<bool> cached(units, true), dirty(units, false);
    std::vector<Part> parts;
    for (uint64_t at = 0; at < range.length;) {
      Part part = {std::min<uint64_t>(1 + random() % (2 * unit), range.length - at), random() % 2 == 0};
      part.dirty = part.cached && random() % 2 == 0;
      for (uint64_t end = at + part.length; at < end; ++at) {
        cached[at / unit] = cached[at / unit] && part.cached;
        dirty[at / unit] = dirty[at / unit] || part.dirty;
      }
      parts.push_back(part);
    }
    uint64_t told = 0;
    for (const Resident& resident : Coarsen(range, unit, parts)) {
      ASSERT_EQ(resident.range.offset, range.offset + told * unit);
      ASSERT_EQ(resident.range.length % unit, 0u);
      for (const uint64_t end = told + resident.range.length / unit; told < end; ++told) {
        ASSERT_EQ(resident.cached, cached[told]);
        ASSERT_EQ(resident.dirty, dirty[told]);
      }
    }
    ASSERT_EQ(told, units);
  }
}

}  // namespace
}  // namespace buse
