// SPDX-License-Identifier: Apache-2.0
//
// Parity survives power cuts, all disks at once: healthy, degraded, while a stale leg is rebuilt, when a leg fails in between, and
// when legs are gone after the cut. No stripe is ever left half-written. Each planted bug is found.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/defect.h"
#include "layers/operation.h"
#include "layers/parity.h"
#include "tests/power_cut/explore.h"
#include "tests/weak_leg.h"

namespace buse::testing {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kChunk = 4096;
constexpr uint64_t kLog = ParityLayout::kSlots * ParityLayout::kLeastSlot;
constexpr uint64_t kData = ParityLayout::kLogAt + kLog;
constexpr uint64_t kDisk = kData + 2 * kChunk + 4096;  // two stripes, so that parity lies on different legs

// A parity whose stripes are also compared whenever it is read.
template <class P>
struct Coherent {
  using Config = typename P::Config;
  using State = typename P::State;

  // Off while other threads may be writing.
  static inline bool compares = true;

  static constexpr uint64_t kBlockSize = P::kBlockSize;
  static constexpr Concurrency kConcurrency = P::kConcurrency;

  static constexpr auto Describe() { return P::Describe(); }
  static absl::Status Open(const Config& config, State& self) { return P::Open(config, self); }
  static uint64_t Size(const State& self) { return P::Size(self); }
  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    absl::Status status = P::Read(self, offset, out);
    if (!status.ok() || !compares) return status;
    // Twice: only where it is found, what is mismatched is counted.
    const absl::StatusOr<uint64_t> left = P::Scrub(self, UINT64_MAX);
    if (!left.ok()) return left.status();
    const LegsStatus after = P::Status(self);
    if (after.mismatched + after.repaired == 0) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(after.mismatched + after.repaired, " bytes contradict others"));
  }
  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) { return P::Write(self, offset, in); }
  static absl::Status Flush(State& self) { return P::Flush(self); }
};

template <size_t kParity, class Disk = CutDisk<>>
using Set = Parity<2, kParity, WeakLeg<Disk>, kChunk>;

// What is wrong with some legs, from the `from`th time on that the set is configured: format, filling and a look at what was filled
// come before the exploration.
struct Weakness {
  LegMask legs = 0;
  int missing_until = 0;
  int missing_from = 1000000000;
  bool missing_after_cut = false;
  Range refused = {};  // in the exploration
};

template <class P>
PowerCutTest<Coherent<P>> Exploration(Weakness weakness = {}) {
  struct Known {
    int times = 0;
    Rack::Platters start;
  };
  auto known = std::make_shared<Known>();
  PowerCutTest<Coherent<P>> test;
  test.configure = [weakness, known](Rack& rack) {
    const int times = ++known->times;
    if (times == 4) known->start = rack.Save();
    bool cut = false;
    for (size_t i = 0; times > 4 && i < rack.size(); ++i) cut = cut || rack.slot(i).platter != known->start[i];
    typename P::Config config = {.log = kLog, .stage = ParitySet::kLeastStage, .degraded = true};
    medium_internal::ForEachBelow<typename P::Below>([&]<class Branch>(auto leg, Branch*) {
      auto& below = std::get<leg>(config.below);
      below.below = rack.Disk<typename Branch::Below>(kDisk);
      if (!Has(weakness.legs, leg) || times == 1) return true;
      below.missing = times <= weakness.missing_until || times >= weakness.missing_from || (cut && weakness.missing_after_cut);
      if (times > 3) below.refused = weakness.refused;
      return true;
    });
    return config;
  };
  test.format = [](const typename P::Config& config) { return FormatStack<P>(config, [](uint64_t, uint64_t) {}); };
  test.exhaustive_steps = 1;
  test.random_steps = 6;
  test.states_per_cut = 16;
  // Other threads write while one reads.
  test.thread_exhaustive_steps = 0;
  return test;
}

// Fewer seeds than others: each state leads to fifty more, since the power also goes during recovery.
uint64_t Seeds() { return std::max<uint64_t>(PowerCutSeeds() / 10, 1); }

template <class P>
void ExpectSurvives(Weakness weakness = {}) {
  const PowerCutReport report = ExplorePowerCuts(Exploration<P>(weakness), Seeds());
  std::printf("%s\n", ToString(report).c_str());
  EXPECT_TRUE(report.failure.empty()) << report.failure;
}

TEST(ParityPowerCutTest, AHealthySetSurvives) { ExpectSurvives<Set<1>>(); }

TEST(ParityPowerCutTest, DisksWithoutShortcutsSurvive) { ExpectSurvives<Set<1, CutDisk<512, false>>>(); }

// The write hole.
TEST(ParityPowerCutTest, ASetSurvivesThatALegIsGoneAfterwards) {
  for (size_t leg = 0; leg < 3; ++leg) ExpectSurvives<Set<1>>({.legs = Leg(leg), .missing_after_cut = true});
}

TEST(ParityPowerCutTest, ASetWithTwoLegsOfParitySurvivesThatTwoAreGoneAfterwards) {
  for (const LegMask legs : {Leg(0) | Leg(1), Leg(1) | Leg(3), Leg(2) | Leg(3)}) {
    ExpectSurvives<Set<2>>({.legs = legs, .missing_after_cut = true});
  }
}

TEST(ParityPowerCutTest, ADegradedSetSurvives) {
  for (size_t leg = 0; leg < 3; ++leg) ExpectSurvives<Set<1>>({.legs = Leg(leg), .missing_from = 2});
}

TEST(ParityPowerCutTest, ASetThatRebuildsAStaleLegSurvives) {
  for (size_t leg = 0; leg < 3; leg += 2) ExpectSurvives<Set<1>>({.legs = Leg(leg), .missing_until = 3});
}

TEST(ParityPowerCutTest, ASetSurvivesThatALegFails) {
  for (size_t leg = 0; leg < 3; leg += 2) ExpectSurvives<Set<1>>({.legs = Leg(leg), .refused = {kData, 512}});
}

TEST(ParityPowerCutTest, ASetSurvivesThatALegCannotLog) {
  ExpectSurvives<Set<1>>({.legs = Leg(1), .refused = {ParityLayout::kLogAt, kLog}});
}

// Threads that meet at stages and commits.
TEST(ParityPowerCutTest, ThreadsThatMeetSurvive) {
  Coherent<Set<1>>::compares = false;
  auto test = Exploration<Set<1>>();
  test.exhaustive_steps = 1;
  test.thread_exhaustive_steps = 2;
  test.preemptions = 1;
  const PowerCutReport report = ExplorePowerCuts(test, Seeds());
  std::printf("%s\n", ToString(report).c_str());
  EXPECT_TRUE(report.failure.empty()) << report.failure;
  Coherent<Set<1>>::compares = true;
}

// ---- What is wrong.

std::string FailureWith(const std::string& defect, Weakness weakness = {}, int steps = 1) {
  planted_defect = defect;
  auto test = Exploration<Set<1>>(weakness);
  test.exhaustive_steps = steps;
  const PowerCutReport report = ExplorePowerCuts(test);
  planted_defect.clear();
  std::printf("after %llu states:\n%s\n",
              static_cast<unsigned long long>(report.enumerated + report.sampled + report.in_recovery), report.failure.c_str());
  return report.failure;
}

TEST(ParityPowerCutTest, FindsTheWriteHole) { EXPECT_THAT(FailureWith("parity-no-log"), HasSubstr("contradict")); }

TEST(ParityPowerCutTest, FindsTheWriteHoleInADegradedSet) {
  EXPECT_THAT(FailureWith("parity-no-log", {.legs = Leg(0), .missing_from = 2}), HasSubstr("bytes"));
}

TEST(ParityPowerCutTest, FindsALogThatIsNotFlushedBeforeTheData) {
  EXPECT_THAT(FailureWith("parity-log-not-flushed"), HasSubstr("bytes"));
}

TEST(ParityPowerCutTest, FindsALogThatWritesOverWhatIsNotInPlace) {
  EXPECT_THAT(FailureWith("parity-one-log-slot", {}, 3), HasSubstr("bytes"));
}

TEST(ParityPowerCutTest, FindsALostPieceThatIsNotReconstructed) {
  EXPECT_THAT(FailureWith("parity-lost-piece-left"), HasSubstr("bytes"));
}

// A leg that can log nothing is believed after a cut, when no log tells any more what it missed.
TEST(ParityPowerCutTest, FindsAnAnswerBeforeTheDegradedStateIsDurable) {
  planted_defect = "parity-degraded-not-recorded";
  auto test = Exploration<Set<1>>({.legs = Leg(0), .refused = {ParityLayout::kLogAt, kDisk - ParityLayout::kLogAt}});
  test.steps = {{Operation::kWriteThrough, {0, 512}}, {Operation::kWriteThrough, {8192, 512}}};
  test.exhaustive_steps = 3;
  test.states_per_cut = 4;
  const PowerCutReport report = ExplorePowerCuts(test);
  planted_defect.clear();
  std::printf("%s\n", report.failure.c_str());
  EXPECT_NE(report.failure, "");
}

TEST(ParityPowerCutTest, FindsReadsFromAStaleLeg) {
  EXPECT_NE(FailureWith("parity-reads-stale-leg", {.legs = Leg(0), .missing_until = 3}), "");
}

TEST(ParityPowerCutTest, FindsALegCalledInSyncBeforeItWasFlushed) {
  EXPECT_NE(FailureWith("parity-rebuilt-not-flushed", {.legs = Leg(0), .missing_until = 3}), "");
}

}  // namespace
}  // namespace buse::testing
