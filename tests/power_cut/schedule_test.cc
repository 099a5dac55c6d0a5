// SPDX-License-Identifier: Apache-2.0
//
// Threads in the power-cut test kit, proved: it finds each deliberate mistake that only a schedule brings about, with a short
// history, and nothing in what is right.

#include <cstdint>
#include <cstdio>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/align.h"
#include "layers/passthrough.h"
#include "layers/range_lock.h"
#include "layers/serialize.h"
#include "tests/power_cut/explore.h"
#include "tests/power_cut/thread_toys.h"

namespace buse::testing {
namespace {

using ::testing::HasSubstr;

using Disk = CutDisk<512, false>;
using LargeDisk = CutDisk<1024, false>;
using DisjointDisk = CutDisk<1, true, Concurrency::kDisjoint>;
using SerialDisk = CutDisk<1, true, Concurrency::kSerial>;

template <class Stack, class Leaf>
PowerCutTest<Stack> Over(int thread_steps = kThreadExhaustiveSteps) {
  return {.configure = [](Rack& rack) { return typename Stack::Config{.below = rack.Disk<Leaf>(8192)}; },
          .thread_exhaustive_steps = thread_steps};
}

// ---- What is right. The layers whose purpose it is to have several threads; explore_test.cc has more.

TEST(ScheduleTest, RangeLockSurvives) {
  using Stack = RangeLock<DisjointDisk>;
  ExpectSurvivesPowerCuts<Stack>(Over<Stack, DisjointDisk>());
}

TEST(ScheduleTest, SerializeSurvives) {
  using Stack = Serialize<SerialDisk>;
  ExpectSurvivesPowerCuts<Stack>(Over<Stack, SerialDisk>(2));
}

TEST(ScheduleTest, AlignSurvivesOverADiskThatBearsOnlyDisjointCalls) {
  using Leaf = CutDisk<4096, true, Concurrency::kDisjoint>;
  using Stack = Align<Leaf>;
  ExpectSurvivesPowerCuts<Stack>({.configure = [](Rack& rack) { return Stack::Config{.below = rack.Disk<Leaf>(16384)}; }});
}

TEST(ScheduleTest, RangeLockOverAlignOverADiskThatBearsOnlyDisjointCallsSurvives) {
  using Leaf = CutDisk<4096, true, Concurrency::kDisjoint>;
  using Stack = RangeLock<Align<Leaf>>;
  ExpectSurvivesPowerCuts<Stack>(
      {.configure = [](Rack& rack) { return Stack::Config{.below = {.below = rack.Disk<Leaf>(16384)}}; },
       .thread_exhaustive_steps = 2});
}

// ---- What is wrong, beside the same without its mistake.

template <class Stack, class Leaf>
std::string Failure(int thread_steps = 3) {
  PowerCutTest<Stack> test = Over<Stack, Leaf>(0);
  EXPECT_EQ(ExplorePowerCuts(test).failure, "") << "one thread does not notice";
  test.thread_exhaustive_steps = thread_steps;
  const PowerCutReport report = ExplorePowerCuts(test);
  // For who wants to see what a failure looks like.
  std::printf("after %llu schedules:\n%s\n", static_cast<unsigned long long>(report.schedules + report.random_schedules),
              report.failure.c_str());
  return report.failure;
}

template <BufferMistake kMistake>
std::string BufferFailure() {
  return Failure<ToyBuffer<kMistake, Disk>, Disk>();
}

TEST(ScheduleTest, ABufferWithoutAMistakeSurvives) { EXPECT_EQ(BufferFailure<BufferMistake::kNone>(), ""); }

TEST(ScheduleTest, FindsAFlushThatReturnsBecauseAnotherIsUnderWay) {
  EXPECT_EQ(BufferFailure<BufferMistake::kFlushIsUnderWay>(),
            "  threads:\n"
            "    A: 1. flush\n"
            "    B: 1. write-through 0+512\n"
            "  history:\n"
            "    A begins 1. flush\n"
            "    A   disk 0: flush\n"
            "    B begins 1. write-through 0+512\n"
            "    B ends 1.\n"
            "  the power went after that\n"
            "  what survived:\n"
            "    nothing was unflushed\n"
            "  then: bytes 0+512 hold what was there at first; allowed is what was written in step B1");
}

TEST(ScheduleTest, FindsAFlushThatForgetsWhatWasAcknowledgedMeanwhile) {
  const std::string failure = BufferFailure<BufferMistake::kForgetsNewcomers>();
  EXPECT_THAT(failure, HasSubstr("    A: 1. write 0+512\n    B: 1. flush\n"));
  EXPECT_THAT(failure, HasSubstr("after all had ended: bytes 0+512 read as what was there at first"));
}

TEST(ScheduleTest, FindsAFlushThatDoesNotWaitForWhatAnotherWrites) {
  const std::string failure = BufferFailure<BufferMistake::kForgetsWhatIsWritten>();
  EXPECT_THAT(failure, HasSubstr("allowed is what was written in step"));
}

TEST(ScheduleTest, FindsBlocksThatAreMergedWithoutALock) {
  EXPECT_EQ((Failure<ToyMerge<true, LargeDisk>, LargeDisk>(2)), "");
  const std::string failure = Failure<ToyMerge<false, LargeDisk>, LargeDisk>();
  EXPECT_THAT(failure, HasSubstr("A begins 1."));
  EXPECT_THAT(failure, HasSubstr("B begins 1."));
}

TEST(ScheduleTest, FindsAReadThatIsCachedAfterItWasOverwritten) {
  EXPECT_EQ((Failure<ToyReadCache<false, Disk>, Disk>(2)), "");
  EXPECT_THAT((Failure<ToyReadCache<true, Disk>, Disk>()),
              HasSubstr("read as what was there at first; allowed is what was written"));
}

TEST(ScheduleTest, FindsADeadlockAndReturns) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer finds the locks in the wrong order by itself, and fails the test";
#endif
  EXPECT_EQ((Failure<ToyTwoLocks<false, Disk>, Disk>(2)), "");
  EXPECT_THAT((Failure<ToyTwoLocks<true, Disk>, Disk>()),
              HasSubstr("waits for another thread\n  then: every thread waits for another"));
}

TEST(ScheduleTest, FindsCallsThatTheDiskDoesNotBear) {
  EXPECT_EQ((Failure<RangeLock<DisjointDisk>, DisjointDisk>(2)), "");
  EXPECT_THAT((Failure<ToyBoaster<DisjointDisk>, DisjointDisk>()),
              HasSubstr("the disk does not bear these at the same time: disk 0: write 0+512, and disk 0: write 0+512"));
  EXPECT_THAT((Failure<ToyBoaster<SerialDisk>, SerialDisk>()), HasSubstr("the disk does not bear these at the same time"));
}

// Needs more steps than are enumerated: the seed is named and the history shortened.
TEST(ScheduleTest, ShortensWhatASeedFinds) {
  const std::string failure = Failure<ToyBuffer<BufferMistake::kFlushIsUnderWay, Disk>, Disk>(1);
  EXPECT_THAT(failure, HasSubstr("seed "));
  EXPECT_THAT(failure, HasSubstr("1. write"));
}

// ---- Counted by hand.

TEST(ScheduleTest, EveryScheduleComesOnce) {
  using Stack = Passthrough<Disk>;
  PowerCutTest<Stack> test = Over<Stack, Disk>();
  test.exhaustive_steps = 1;
  test.thread_steps = {{Operation::kWrite, {0, 512}}};
  test.thread_exhaustive_steps = 2;
  // Each thread comes to four points: before its step, at the disk, when it leaves that, and its end. Without a preemption
  // either goes first. With one, it is interrupted before one of its three moves; the one before the first lets the other
  // begin, and then end.
  for (const auto& [preemptions, schedules] : {std::pair{0, 2}, {1, 8}}) {
    test.preemptions = preemptions;
    const PowerCutReport report = ExplorePowerCuts(test, 0);
    EXPECT_EQ(report.failure, "");
    EXPECT_EQ(report.thread_workloads, 1u);
    EXPECT_EQ(report.schedules, static_cast<uint64_t>(schedules));
  }
}

}  // namespace
}  // namespace buse::testing
