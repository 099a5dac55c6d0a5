// SPDX-License-Identifier: Apache-2.0
//
// The checks of Cache, checked: the explorer finds each bug that is planted in a copy of it, and none where none is planted.

#include <cstdint>
#include <cstdio>
#include <string>

#include "gtest/gtest.h"
#include "layers/cache.h"
#include "layers/defect.h"
#include "layers/operation.h"
#include "tests/power_cut/explore.h"

namespace buse::testing {
namespace {

using Stack = Cache<CutDisk<>>;

std::string Failure(const std::string& defect) {
  planted_defect = defect;
  const auto configure = [](Rack& rack) {
    return Stack::Config{.size = 4 * 4096, .read_ahead = 0, .below = rack.Disk(6 * 4096)};
  };
  const PowerCutReport report = ExplorePowerCuts<Stack>(
      {.configure = configure,
       .steps = {{Operation::kWrite, {0, 1024}},
                 {Operation::kWrite, {8192, 3 * 4096}},
                 {Operation::kFlush},
                 {Operation::kWriteThrough, {0, 1024}},
                 {Operation::kWrite, {1500, 200}},
                 {Operation::kTrim, {100, 2048}}},
       .states_per_cut = 16,
       .thread_steps = {{Operation::kWrite, {0, 1024}}, {Operation::kFlush}, {Operation::kTrim, {0, 1024}}}},
      10);
  planted_defect.clear();
  std::printf("after %llu states:\n%s\n",
              static_cast<unsigned long long>(report.enumerated + report.sampled + report.thread_states),
              report.failure.c_str());
  return report.failure;
}

TEST(CacheDefectTest, NothingIsFoundWhereNothingIsPlanted) { EXPECT_EQ(Failure(""), ""); }

TEST(CacheDefectTest, FindsAFlushThatIsNotPassedOn) { EXPECT_NE(Failure("cache-no-flush-below"), ""); }

TEST(CacheDefectTest, FindsAWriteThroughThatIsAWrite) { EXPECT_NE(Failure("cache-write-through-early"), ""); }

TEST(CacheDefectTest, FindsAWriteThroughThatIsOverwrittenByWhatWasDirty) {
  EXPECT_NE(Failure("cache-write-through-past-the-cache"), "");
}

TEST(CacheDefectTest, FindsDirtyPagesThatAreDropped) { EXPECT_NE(Failure("cache-drops-dirty"), ""); }

TEST(CacheDefectTest, FindsPagesThatSurviveATrim) { EXPECT_NE(Failure("cache-clear-keeps-pages"), ""); }

TEST(CacheDefectTest, FindsATrimThatForgetsWhatAFlushOwes) { EXPECT_NE(Failure("cache-clear-too-early"), ""); }

TEST(CacheDefectTest, FindsPartsOfSectorsThatOvertakeTheRest) { EXPECT_NE(Failure("cache-parts-of-sectors"), ""); }

TEST(CacheDefectTest, FindsAReadThatOverwritesWhatIsNewer) { EXPECT_NE(Failure("cache-fill-over-newer"), ""); }

TEST(CacheDefectTest, FindsAFlushThatForgetsWhatIsBeingWrittenBack) { EXPECT_NE(Failure("cache-clean-before-written"), ""); }

TEST(CacheDefectTest, FindsAWriteThatIsForgottenBesideItsWriteBack) {
  EXPECT_NE(Failure("cache-write-forgets-what-is-written-back"), "");
}

}  // namespace
}  // namespace buse::testing
