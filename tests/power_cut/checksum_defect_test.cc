// SPDX-License-Identifier: Apache-2.0
//
// The check of the checker: bugs planted in Checksum's order of writing, each found by the explorer.

#include <cstdio>
#include <string>

#include "gtest/gtest.h"
#include "layers/checksum.h"
#include "layers/defect.h"
#include "tests/power_cut/explore.h"
#include "tests/power_cut/tiny_checksum.h"

namespace buse::testing {
namespace {

using Stack = Checksum<CutDisk<>>;

PowerCutTest<Stack> Few() {
  PowerCutTest<Stack> test = TinyChecksum<Stack, CutDisk<>>(49152, 512);
  test.states_per_cut = 8;
  test.thread_exhaustive_steps = 0;
  return test;
}

template <Device S = Stack>
std::string Failure(const std::string& defect, const PowerCutTest<S>& test = Few()) {
  planted_defect = defect;
  const PowerCutReport report = ExplorePowerCuts(test);
  planted_defect.clear();
  std::printf("after %llu states:\n%s\n",
              static_cast<unsigned long long>(report.enumerated + report.sampled + report.in_recovery), report.failure.c_str());
  return report.failure;
}

TEST(ChecksumDefectTest, NothingIsFoundWhereNothingIsPlanted) { EXPECT_EQ(Failure(""), ""); }

TEST(ChecksumDefectTest, FindsDataWrittenBeforeTheLogIsDurable) { EXPECT_NE(Failure("checksum-log-not-durable"), ""); }

TEST(ChecksumDefectTest, FindsATableWrittenBeforeTheDataIsDurable) { EXPECT_NE(Failure("checksum-table-before-data"), ""); }

TEST(ChecksumDefectTest, FindsALogReusedBeforeTheTableIsDurable) { EXPECT_NE(Failure("checksum-log-reused-early"), ""); }

TEST(ChecksumDefectTest, FindsAFlushThatIsNotPassedOn) { EXPECT_NE(Failure("checksum-no-flush"), ""); }

TEST(ChecksumDefectTest, FindsAFlushThatForgetsWhatIsStaged) { EXPECT_NE(Failure("checksum-early-acknowledgement"), ""); }

TEST(ChecksumDefectTest, FindsSumsThatAreSettledBeforeTheirDataIsDurable) { EXPECT_NE(Failure("checksum-settled-early"), ""); }

TEST(ChecksumDefectTest, FindsATableThatIsZeroedBeforeItsDataIsDurable) {
  using Sums32 = Checksum<CutDisk<>, Sha256>;
  EXPECT_NE(Failure("checksum-table-zeroed-early", ZeroedTablePages<Sums32, CutDisk<>>()), "");
}

TEST(ChecksumDefectTest, FindsARecoveryThatTakesTheOldest) { EXPECT_NE(Failure("checksum-recovery-takes-oldest"), ""); }

TEST(ChecksumDefectTest, FindsAHeadThatIsNotDurable) { EXPECT_NE(Failure("checksum-head-not-durable"), ""); }

// ---- Where the committer runs beside others. Nothing planted, nothing is found: checksum_power_cut_test.cc.

TEST(ChecksumDefectTest, FindsAFlushThatDoesNotWaitForTheCommitter) {
  EXPECT_NE(Failure("checksum-flush-past-committer", CommittedChecksum<Stack, CutDisk<>>()), "");
}

TEST(ChecksumDefectTest, FindsAReadThatPassesOverWhatIsBeingCommitted) {
  EXPECT_NE(Failure("checksum-sealed-not-read", CommittedChecksum<Stack, CutDisk<>>()), "");
}

}  // namespace
}  // namespace buse::testing
