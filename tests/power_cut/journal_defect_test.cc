// SPDX-License-Identifier: Apache-2.0
//
// The check of the checker: bugs planted in Journal, each found by the explorer.

#include <cstdio>
#include <string>

#include "gtest/gtest.h"
#include "layers/defect.h"
#include "layers/journal.h"
#include "tests/power_cut/explore.h"
#include "tests/power_cut/tiny_journal.h"

namespace buse::testing {
namespace {

using Stack = Journal<CutDisk<>, 4096>;

std::string Failure(const std::string& defect) {
  PowerCutTest<Stack> test = TinyJournal<Stack, CutDisk<>>();
  test.thread_exhaustive_steps = 0;
  planted_defect = defect;
  const PowerCutReport report = ExplorePowerCuts(test);
  planted_defect.clear();
  std::printf("after %llu states:\n%s\n",
              static_cast<unsigned long long>(report.enumerated + report.sampled + report.in_recovery), report.failure.c_str());
  return report.failure;
}

TEST(JournalDefectTest, NothingIsFoundWhereNothingIsPlanted) { EXPECT_EQ(Failure(""), ""); }

TEST(JournalDefectTest, FindsAFlushThatDoesNotCommit) { EXPECT_NE(Failure("journal-no-flush"), ""); }

TEST(JournalDefectTest, FindsDataInPlaceBeforeTheLogIsDurable) { EXPECT_NE(Failure("journal-in-place-too-early"), ""); }

TEST(JournalDefectTest, FindsTornRecordsThatAreReplayed) { EXPECT_NE(Failure("journal-takes-torn-records"), ""); }

TEST(JournalDefectTest, FindsARecoveryOfOneRecordOnly) { EXPECT_NE(Failure("journal-replays-only-the-newest"), ""); }

}  // namespace
}  // namespace buse::testing
