// SPDX-License-Identifier: Apache-2.0
//
// The checks of Residency, checked: each bug that is planted in a copy of Cache is found, and none where none is planted.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "layers/cache.h"
#include "layers/contract.h"
#include "layers/defect.h"
#include "layers/memory.h"

namespace buse::testing {
namespace {

using Stack = Contract<Cache<Memory>>;

constexpr Range kLookedAt = {100, 30000};

std::vector<Range> Dirty(Stack::State& state) {
  std::vector<Range> dirty;
  EXPECT_TRUE(Stack::Residency(state, kLookedAt, [&](const Resident& resident) {
                if (resident.dirty) dirty.push_back(resident.range);
                return true;
              }).ok());
  return dirty;
}

// What of the range is dirty, of which something was written and, if so, flushed. Contract sees to the rest.
std::vector<Range> DirtyOfWritten(const std::string& defect, bool flushed) {
  planted_defect = defect;
  auto state = std::make_unique<Stack::State>();
  EXPECT_TRUE(Stack::Open({.below = {.size = 64 << 10, .read_ahead = 0, .below = {.size = 1 << 20}}}, *state).ok());
  EXPECT_TRUE(Stack::Write(*state, 8192, std::vector<std::byte>(5120)).ok());
  if (flushed) {
    EXPECT_TRUE(Stack::Flush(*state).ok());
  }
  std::vector<Range> dirty = Dirty(*state);
  planted_defect.clear();
  return dirty;
}

const std::vector<Range> kWritten = {{8192, 5120}};

TEST(ResidencyDefectTest, NothingIsFoundWhereNothingIsPlanted) {
  EXPECT_EQ(DirtyOfWritten("", false), kWritten);
  EXPECT_EQ(DirtyOfWritten("", true), std::vector<Range>());
}

TEST(ResidencyDefectTest, FindsWhatIsCleanCalledDirty) {
  EXPECT_NE(DirtyOfWritten("cache-calls-clean-dirty", true), std::vector<Range>());
}

TEST(ResidencyDefectTest, FindsPagesThatAreLeftOut) {
  EXPECT_NE(DirtyOfWritten("cache-tells-of-pages-alone", false), kWritten);
}

TEST(ResidencyDefectDeathTest, FindsThatMoreIsToldThanWasAsked) {
  EXPECT_DEATH(DirtyOfWritten("cache-tells-whole-pages", false), "residency 100.30000.*within the range");
}

}  // namespace
}  // namespace buse::testing
