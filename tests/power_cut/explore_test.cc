// SPDX-License-Identifier: Apache-2.0
//
// The power-cut test kit, proved: it finds each deliberate mistake, with a short history, and nothing in what is right.

#include "tests/power_cut/explore.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/align.h"
#include "layers/offset.h"
#include "layers/passthrough.h"
#include "tests/power_cut/exhaustive_choices.h"
#include "tests/power_cut/oracle.h"
#include "tests/power_cut/toys.h"

namespace buse::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// ---- What is right.

TEST(PowerCutExploreTest, ADiskSurvives) {
  ExpectSurvivesPowerCuts<CutDisk<>>({.configure = [](Rack& rack) { return rack.Disk(8192); }});
}

TEST(PowerCutExploreTest, ADiskWithoutShortcutsSurvives) {
  using Stack = CutDisk<1, false>;
  ExpectSurvivesPowerCuts<Stack>({.configure = [](Rack& rack) { return rack.Disk<Stack>(8192); }});
}

TEST(PowerCutExploreTest, PassthroughSurvives) {
  using Stack = Passthrough<CutDisk<>>;
  ExpectSurvivesPowerCuts<Stack>(
      {.configure = [](Rack& rack) { return Stack::Config{.below = rack.Disk(8192)}; }, .thread_exhaustive_steps = 2});
}

TEST(PowerCutExploreTest, OffsetSurvives) {
  using Stack = Offset<CutDisk<512>>;
  ExpectSurvivesPowerCuts<Stack>(
      {.configure = [](Rack& rack) { return Stack::Config{.start = 1024, .below = rack.Disk<CutDisk<512>>(8192)}; },
       .thread_exhaustive_steps = 2});
}

TEST(PowerCutExploreTest, LargeBlocksSurviveTornAtSectors) {
  using Stack = Passthrough<CutDisk<4096>>;
  ExpectSurvivesPowerCuts<Stack>(
      {.configure = [](Rack& rack) { return Stack::Config{.below = rack.Disk<CutDisk<4096>>(16384)}; },
       .states_per_cut = 64,
       .thread_exhaustive_steps = 2});
}

TEST(PowerCutExploreTest, LargeSectorsAreWrittenWhole) {
  using Stack = Passthrough<CutDisk<4096>>;
  ExpectSurvivesPowerCuts<Stack>(
      {.configure = [](Rack& rack) { return Stack::Config{.below = rack.Disk<CutDisk<4096>>(16384, 4096)}; },
       .unit = 4096,
       .thread_exhaustive_steps = 2});
}

// Reading, changing and writing back a block writes the neighbours' sectors with what they hold: the newest value, which is a
// legal one. So each sector is as safe as below.
TEST(PowerCutExploreTest, AlignSurvivesOverLargeBlocks) {
  using Stack = Align<CutDisk<4096>>;
  ExpectSurvivesPowerCuts<Stack>(
      {.configure = [](Rack& rack) { return Stack::Config{.below = rack.Disk<CutDisk<4096>>(16384)}; }});
}

TEST(PowerCutExploreTest, AlignSurvivesOverLargeBlocksWithoutShortcuts) {
  using Disk = CutDisk<4096, false>;
  using Stack = Align<Disk>;
  ExpectSurvivesPowerCuts<Stack>({.configure = [](Rack& rack) { return Stack::Config{.below = rack.Disk<Disk>(16384)}; }});
}

TEST(PowerCutExploreTest, TwoDisksSurvive) {
  using Stack = ToyConcat<false, CutDisk<>>;
  ExpectSurvivesPowerCuts<Stack>(
      {.configure =
           [](Rack& rack) {
             auto first = rack.Disk(2048);
             return Stack::Config{.below = {first, rack.Disk(2048)}};
           },
       .steps = {{Operation::kWrite, {1536, 1024}}, {Operation::kWrite, {2048, 512}}, {Operation::kFlush}}});
}

TEST(PowerCutExploreTest, AJournalWritesItsBlocksWholeAndSurvivesCutsInRecovery) {
  using Stack = ToyJournal<JournalMistake::kNone, CutDisk<512>>;
  const auto configure = [](Rack& rack) { return Stack::Config{.below = rack.Disk<CutDisk<512>>(8192)}; };
  ExpectSurvivesPowerCuts<Stack>({.configure = configure, .unit = 1024});
  EXPECT_GT(ExplorePowerCuts<Stack>({.configure = configure, .unit = 1024, .exhaustive_steps = 1}, 0).in_recovery, 0u);
}

// ---- What is wrong.

template <class Stack>
PowerCutReport Explore(const PowerCutTest<Stack>& test) {
  const PowerCutReport report = ExplorePowerCuts(test);
  // For who wants to see what a failure looks like.
  std::printf("after %llu states:\n%s\n",
              static_cast<unsigned long long>(report.enumerated + report.sampled + report.in_recovery), report.failure.c_str());
  return report;
}

template <Mistake kMistake>
std::string Failure() {
  using Stack = Toy<kMistake, CutDisk<>>;
  return Explore<Stack>({.configure = [](Rack& rack) { return typename Stack::Config{.below = rack.Disk(8192)}; }}).failure;
}

constexpr const char kWriteAndFlush[] = "  history:\n    1. write 0+512\n    2. flush\n  the power went after that\n";

TEST(PowerCutExploreTest, ALayerWithoutAMistakeSurvives) { EXPECT_EQ(Failure<Mistake::kNone>(), ""); }

TEST(PowerCutExploreTest, FindsADroppedFlush) {
  EXPECT_EQ(Failure<Mistake::kFlushDropped>(), std::string(kWriteAndFlush) +
                                                   "  what survived:\n    disk 0 bytes 0+512: what was durable\n"
                                                   "  then: bytes 0+512 hold what was there at first; allowed is what was "
                                                   "written in step 1");
}

TEST(PowerCutExploreTest, FindsAFlushThatReturnsTooEarly) {
  EXPECT_THAT(Failure<Mistake::kFlushLate>(), HasSubstr(kWriteAndFlush));
}

TEST(PowerCutExploreTest, FindsAWriteThroughThatIsAWrite) {
  EXPECT_THAT(Failure<Mistake::kWriteThroughIsWrite>(),
              HasSubstr("history:\n    1. write-through 0+512\n  the power went after"));
}

TEST(PowerCutExploreTest, FindsAWriteThatWasAcknowledgedAndLost) {
  EXPECT_THAT(Failure<Mistake::kAcknowledgedEarly>(), HasSubstr(kWriteAndFlush));
}

TEST(PowerCutExploreTest, FindsWritesThatPassAFlush) {
  EXPECT_THAT(Failure<Mistake::kReorderedAcrossFlush>(), HasSubstr(kWriteAndFlush));
}

TEST(PowerCutExploreTest, FindsNeighboursThatAreLost) {
  EXPECT_THAT(Failure<Mistake::kClearsBlock>(), HasSubstr("changed, which nobody wrote to"));
}

TEST(PowerCutExploreTest, FindsTornBlocksWhereWholeOnesAreClaimed) {
  using Stack = Passthrough<CutDisk<4096>>;
  const std::string failure =
      Explore<Stack>(
          {.configure = [](Rack& rack) { return Stack::Config{.below = rack.Disk<CutDisk<4096>>(16384)}; }, .unit = 4096})
          .failure;
  EXPECT_THAT(failure, HasSubstr("hold a mixture"));
}

// Sectors that straddle those of the disk are torn, and what both divide is not.
TEST(PowerCutExploreTest, FindsSectorsThatStraddle) {
  using Stack = Offset<CutDisk<>>;
  const auto configure = [](Rack& rack) { return Stack::Config{.start = 128, .below = rack.Disk(8192)}; };
  EXPECT_THAT(Explore<Stack>({.configure = configure}).failure, HasSubstr("hold a mixture"));
  EXPECT_EQ(Explore<Stack>({.configure = configure, .unit = 128, .thread_exhaustive_steps = 2}).failure, "");
}

TEST(PowerCutExploreTest, FindsAnOpenThatFails) {
  using Stack = ToyTwinHeader<CutDisk<>>;
  const std::string failure =
      Explore<Stack>({.configure = [](Rack& rack) { return Stack::Config{.below = rack.Disk(8192)}; },
                      .format = [](const Stack::Config& config) { return Stack::Format(config.below); }})
          .failure;
  EXPECT_THAT(failure, HasSubstr("Open after the power cut failed: DATA_LOSS: the two sectors of the header disagree"));
}

TEST(PowerCutExploreTest, FindsAFlushThatForgetsADisk) {
  using Stack = ToyConcat<true, CutDisk<>>;
  const std::string failure = Explore<Stack>({.configure =
                                                  [](Rack& rack) {
                                                    auto first = rack.Disk(2048);
                                                    return Stack::Config{.below = {first, rack.Disk(2048)}};
                                                  },
                                              .steps = {{Operation::kWrite, {1536, 1024}}, {Operation::kFlush}}})
                                  .failure;
  EXPECT_THAT(failure, HasSubstr("disk 1 bytes 0+512: what was durable"));
}

template <JournalMistake kMistake>
std::string JournalFailure() {
  using Stack = ToyJournal<kMistake, CutDisk<512>>;
  return Explore<Stack>({.configure = [](Rack& rack) { return typename Stack::Config{.below = rack.Disk<CutDisk<512>>(8192)}; },
                         .unit = 1024})
      .failure;
}

TEST(PowerCutExploreTest, FindsAJournalThatIsNotWrittenFirst) {
  EXPECT_THAT(JournalFailure<JournalMistake::kNoFlushAfterJournal>(), HasSubstr("hold a mixture"));
}

TEST(PowerCutExploreTest, FindsAJournalThatIsReusedTooEarly) {
  EXPECT_THAT(JournalFailure<JournalMistake::kNoFlushBeforeReuse>(), HasSubstr("hold a mixture"));
}

TEST(PowerCutExploreTest, FindsAJournalThatBelievesTornRecords) {
  EXPECT_THAT(JournalFailure<JournalMistake::kNoChecksum>(), Not(::testing::IsEmpty()));
}

TEST(PowerCutExploreTest, FindsARecoveryThatCannotBeRepeated) {
  EXPECT_THAT(JournalFailure<JournalMistake::kForgetsBeforeFlushed>(), HasSubstr("the power went again during change 2"));
}

// A mistake that needs more steps than are enumerated: the seed is named and the history shortened.
TEST(PowerCutExploreTest, ShortensWhatASeedFinds) {
  using Stack = Toy<Mistake::kFlushDropped, CutDisk<>>;
  const std::string failure =
      Explore<Stack>({.configure = [](Rack& rack) { return Stack::Config{.below = rack.Disk(8192)}; }, .exhaustive_steps = 0})
          .failure;
  EXPECT_THAT(failure, HasSubstr("seed "));
  EXPECT_THAT(failure, HasSubstr("    2. flush\n  the power went after that"));
}

// ---- The machinery.

TEST(ExhaustiveChoicesTest, EveryCombinationComesOnce) {
  std::set<std::vector<uint64_t>> seen;
  int runs = 0;
  ExhaustiveChoices choices;
  do {
    // The number of decisions depends on the decisions.
    std::vector<uint64_t> taken = {choices.Below(3)};
    for (uint64_t i = 0; i < taken[0]; ++i) taken.push_back(choices.Below(2));
    seen.insert(taken);
    ++runs;
  } while (choices.Next());
  EXPECT_EQ(runs, 1 + 2 + 4);
  EXPECT_EQ(seen.size(), 7u);
}

// Where the scenario takes another way, that way is gone on from, and it ends.
TEST(ExhaustiveChoicesTest, ANearlyDeterministicScenarioComesToItsEnd) {
  int runs = 0;
  ExhaustiveChoices choices(ExhaustiveChoices::Scenario::kNearlyDeterministic);
  do {
    const uint64_t first = choices.Below(3);
    ASSERT_LT(first, 3u);
    const uint64_t n = runs == 2 ? 4 : 2;
    ASSERT_LT(choices.Below(n), n);
    ASSERT_LT(++runs, 20);
  } while (choices.Next());
  EXPECT_GE(runs, 6);
}

TEST(ExhaustiveChoicesTest, WithoutDecisionsThereIsOneRun) {
  ExhaustiveChoices choices;
  EXPECT_FALSE(choices.Next());
}

// What may be there is counted by hand: two sectors, one of which was written twice.
TEST(PowerCutExploreTest, CountsEveryStateOnce) {
  const PowerCutReport report =
      ExplorePowerCuts<CutDisk<>>({.configure = [](Rack& rack) { return rack.Disk(8192); },
                                   .steps = {{Operation::kWrite, {0, 1024}}, {Operation::kWrite, {0, 512}}},
                                   .exhaustive_steps = 2,
                                   .thread_exhaustive_steps = 0},
                                  0);
  EXPECT_EQ(report.failure, "");
  EXPECT_EQ(report.workloads, 2u + 4u);
  // Each last step is cut during its only change and after it, which leaves the same in doubt. One step: 4 states or 2. Two:
  // both sectors three values, one of them three and the other two, the same, and one of three.
  EXPECT_EQ(report.cuts, 12u);
  EXPECT_EQ(report.enumerated, 2u * (4 + 2 + 9 + 6 + 6 + 3));
}

// ---- The oracle.

constexpr uint64_t kUnit = 512;

std::vector<std::byte> Filled(size_t size, int value) { return std::vector<std::byte>(size, static_cast<std::byte>(value)); }

// A unit of zeroes with, one over the other, parts of other values.
std::vector<std::byte> Unit(std::initializer_list<std::pair<Range, int>> parts) {
  std::vector<std::byte> unit(kUnit);
  for (const auto& [range, value] : parts)
    std::fill_n(unit.begin() + range.offset, range.length, static_cast<std::byte>(value));
  return unit;
}

class OracleTest : public ::testing::Test {
 protected:
  size_t Begin(Range range, int value, bool through = false) {
    return oracle_.BeginWrite(range.offset, Filled(range.length, value), through, std::to_string(value));
  }
  void Write(Range range, int value, bool through = false) { oracle_.End(Begin(range, value, through)); }
  void Flush() { oracle_.End(oracle_.BeginFlush()); }
  bool Allows(std::initializer_list<std::pair<Range, int>> parts) { return oracle_.Check(Unit(parts)).empty(); }
  // What a read returns that begins and ends now.
  bool Reads(std::initializer_list<std::pair<Range, int>> parts) {
    const size_t read = oracle_.BeginRead({0, kUnit});
    oracle_.End(read);
    return oracle_.CheckRead(read, Unit(parts)).empty();
  }

  static constexpr Range kAll = {0, kUnit};
  Oracle oracle_{std::vector<std::byte>(kUnit), kUnit};
};

TEST_F(OracleTest, AUnitHoldsItsLastDurableValueOrALaterOne) {
  Write(kAll, 1);
  Write(kAll, 2);
  Flush();
  Write(kAll, 3);
  Begin(kAll, 4);
  EXPECT_FALSE(Allows({}));
  EXPECT_FALSE(Allows({{kAll, 1}}));
  EXPECT_TRUE(Allows({{kAll, 2}}));
  EXPECT_TRUE(Allows({{kAll, 3}}));
  EXPECT_TRUE(Allows({{kAll, 4}}));
  EXPECT_FALSE(Allows({{kAll, 2}, {{0, 256}, 3}})) << "a mixture";
  EXPECT_EQ(oracle_.Check(Filled(kUnit - 1, 2)), "the device has 511 bytes and had 512");
}

TEST_F(OracleTest, APartDurableByItselfLeavesTheRestOfItsUnitInDoubt) {
  Write(kAll, 1);
  Write({50, 100}, 2, true);
  EXPECT_FALSE(Allows({}));
  EXPECT_FALSE(Allows({{kAll, 1}}));
  EXPECT_TRUE(Allows({{{50, 100}, 2}}));
  EXPECT_TRUE(Allows({{kAll, 1}, {{50, 100}, 2}}));
  EXPECT_FALSE(Allows({{kAll, 1}, {{50, 100}, 2}, {{0, 1}, 0}}));
}

TEST_F(OracleTest, AFlushMakesDurableOnlyWhatHadReturnedBeforeIt) {
  const size_t slow = Begin(kAll, 1);
  const size_t flush = oracle_.BeginFlush();
  Write(kAll, 2);
  oracle_.End(slow);
  EXPECT_TRUE(Allows({}));
  oracle_.End(flush);
  EXPECT_TRUE(Allows({})) << "neither had returned when the flush began";
  Flush();
  EXPECT_FALSE(Allows({}));
  EXPECT_TRUE(Allows({{kAll, 1}})) << "they ran beside each other";
  EXPECT_TRUE(Allows({{kAll, 2}}));
}

TEST_F(OracleTest, AFlushThatHasNotReturnedPromisesNothing) {
  Write(kAll, 1);
  oracle_.BeginFlush();
  EXPECT_TRUE(Allows({}));
}

TEST_F(OracleTest, WritesBesideEachOtherHappenInAnyOrder) {
  const size_t first = Begin({0, 200}, 1);
  const size_t second = Begin({100, 200}, 2);
  oracle_.End(first);
  EXPECT_TRUE(Allows({{{100, 200}, 2}})) << "the second alone";
  oracle_.End(second);
  Flush();
  EXPECT_TRUE(Allows({{{0, 200}, 1}, {{100, 200}, 2}}));
  EXPECT_TRUE(Allows({{{100, 200}, 2}, {{0, 200}, 1}}));
  EXPECT_FALSE(Allows({{{0, 200}, 1}}));
  EXPECT_TRUE(Reads({{{100, 200}, 2}, {{0, 200}, 1}}));
  EXPECT_FALSE(Reads({{{0, 100}, 1}, {{200, 100}, 2}})) << "the overlap was written";
}

TEST_F(OracleTest, AWriteComesWithThoseThatCameBeforeIt) {
  Write({0, 100}, 1);
  Write({100, 100}, 2);
  EXPECT_TRUE(Allows({{{0, 100}, 1}}));
  EXPECT_FALSE(Allows({{{100, 100}, 2}}));
}

TEST_F(OracleTest, AReadSeesWhatHadReturnedAndAnythingWhereAWriteRunsBesideIt) {
  Write(kAll, 1);
  const size_t write = Begin({0, 100}, 2);
  EXPECT_TRUE(Reads({{kAll, 1}, {{0, 100}, 7}}));
  EXPECT_FALSE(Reads({{kAll, 1}, {{100, 1}, 7}}));
  oracle_.End(write);
  EXPECT_TRUE(Reads({{kAll, 1}, {{0, 100}, 2}}));
  EXPECT_FALSE(Reads({{kAll, 1}}));
}

}  // namespace
}  // namespace buse::testing
