// SPDX-License-Identifier: Apache-2.0
//
// Mirror survives power cuts, all disks at once: healthy, degraded, while a stale leg is rebuilt, and when a leg fails in between.
// What is read after a cut is then on all legs in sync. Each planted bug is found.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/defect.h"
#include "layers/mirror.h"
#include "layers/operation.h"
#include "tests/mirror_legs.h"
#include "tests/power_cut/explore.h"

namespace buse::testing {
namespace {

using ::testing::HasSubstr;

// Data of 4096 bytes, in four regions.
constexpr uint64_t kDisk = MirrorLayout::kBitmapAt + 4096 + 4096 + 4096;
constexpr uint64_t kRegion = 1024;
constexpr uint64_t kData = MirrorLayout::kBitmapAt + 4096;

template <class Disk = CutDisk<>>
using Pair = Mirror<WeakLeg<Disk>, WeakLeg<Disk>>;

template <class M>
absl::Status FormatMirror(const typename M::Config& config) {
  return FormatStack<M>(config, [](uint64_t, uint64_t) {});
}

// What is wrong with one leg, from the `from`th time on that the mirror is configured: format, filling and a look at what was
// filled come before the exploration.
struct Weakness {
  size_t leg = 0;
  int missing_until = 0;
  int missing_from = 1000000000;
  Range refused = {};  // in the exploration
  uint64_t idle_flushes = 1;
  bool replaced = false;            // by an empty disk, in the exploration
  bool old_one_comes_back = false;  // after a cut, in place of the new one
};

template <class M>
PowerCutTest<Agreeing<M>> Exploration(Weakness weakness = {}) {
  struct Known {
    int times = 0;
    Rack::Platters start;
  };
  auto known = std::make_shared<Known>();
  PowerCutTest<Agreeing<M>> test;
  test.configure = [weakness, known](Rack& rack) {
    const int times = ++known->times;
    if (times == 4) known->start = rack.Save();
    bool cut = false;
    for (size_t i = 0; times > 4 && i < rack.size(); ++i) cut = cut || rack.slot(i).platter != known->start[i];
    typename M::Config config = {.region_size = kRegion, .degraded = true, .idle_flushes = weakness.idle_flushes};
    medium_internal::ForEachBelow<typename M::Below>([&]<class Branch>(auto leg, Branch*) {
      auto& below = std::get<leg>(config.below);
      below.below = rack.Disk<typename Branch::Below>(kDisk);
      if (leg != weakness.leg || times == 1) return true;
      below.missing = times <= weakness.missing_until || times >= weakness.missing_from;
      if (times > 3) below.refused = weakness.refused;
      return true;
    });
    if (!weakness.replaced) return config;
    medium_internal::ForEachBelow<typename M::Below>([&]<class Branch>(auto leg, Branch*) {
      // A disk more, which nobody has written to.
      if (leg == weakness.leg) {
        const auto spare = rack.Disk<typename Branch::Below>(kDisk);
        if (times <= 3 || (cut && weakness.old_one_comes_back)) return true;
        std::get<leg>(config.below).below = spare;
        config.replace_leg = std::to_string(leg);
      }
      return true;
    });
    return config;
  };
  test.format = FormatMirror<M>;
  // Other threads write while one reads.
  test.thread_exhaustive_steps = 0;
  return test;
}

TEST(MirrorPowerCutTest, AHealthyMirrorSurvives) {
  auto test = Exploration<Pair<>>();
  test.states_per_cut = 64;
  ExpectSurvivesPowerCuts<Agreeing<Pair<>>>(test);
}

// Every region is in doubt whenever it is opened.
TEST(MirrorPowerCutTest, AMirrorThatKeepsItsIntentsSurvives) {
  auto test = Exploration<Pair<>>({.idle_flushes = 8});
  test.exhaustive_steps = 2;
  ExpectSurvivesPowerCuts<Agreeing<Pair<>>>(test);
}

TEST(MirrorPowerCutTest, DisksWithoutShortcutsSurvive) {
  using M = Pair<CutDisk<512, false>>;
  auto test = Exploration<M>();
  test.exhaustive_steps = 2;
  ExpectSurvivesPowerCuts<Agreeing<M>>(test);
}

TEST(MirrorPowerCutTest, ThreeLegsSurviveThatOneFails) {
  using M = Mirror<WeakLeg<CutDisk<>>, WeakLeg<CutDisk<>>, WeakLeg<CutDisk<>>>;
  auto test = Exploration<M>({.refused = {kData, 512}});
  test.exhaustive_steps = 2;
  ExpectSurvivesPowerCuts<Agreeing<M>>(test);
}

TEST(MirrorPowerCutTest, ADegradedMirrorSurvives) {
  auto test = Exploration<Pair<>>({.missing_from = 2});
  test.exhaustive_steps = 2;
  ExpectSurvivesPowerCuts<Agreeing<Pair<>>>(test);
}

TEST(MirrorPowerCutTest, AMirrorThatRebuildsAStaleLegSurvives) {
  for (size_t leg = 0; leg < 2; ++leg) {
    auto test = Exploration<Pair<>>({.leg = leg, .missing_until = 3});
    test.exhaustive_steps = 2;
    ExpectSurvivesPowerCuts<Agreeing<Pair<>>>(test);
  }
}

TEST(MirrorPowerCutTest, AMirrorSurvivesThatALegFails) {
  for (size_t leg = 0; leg < 2; ++leg) {
    auto test = Exploration<Pair<>>({.leg = leg, .refused = {kData + 512, 512}});
    test.exhaustive_steps = 2;
    ExpectSurvivesPowerCuts<Agreeing<Pair<>>>(test);
  }
}

// The power also goes while the new leg is made.
TEST(MirrorPowerCutTest, AMirrorWhoseLegIsReplacedSurvives) {
  for (size_t leg = 0; leg < 2; ++leg) {
    auto test = Exploration<Pair<>>({.leg = leg, .replaced = true});
    test.exhaustive_steps = 2;
    ExpectSurvivesPowerCuts<Agreeing<Pair<>>>(test);
  }
}

TEST(MirrorPowerCutTest, AMirrorSurvivesThatTheLegComesBackThatWasReplaced) {
  auto test = Exploration<Pair<>>({.leg = 1, .replaced = true, .old_one_comes_back = true});
  test.exhaustive_steps = 2;
  ExpectSurvivesPowerCuts<Agreeing<Pair<>>>(test);
}

// Threads that meet at regions, intents and flushes.
TEST(MirrorPowerCutTest, ThreadsThatMeetSurvive) {
  Agreeing<Pair<>>::compares = false;
  auto test = Exploration<Pair<>>();
  test.exhaustive_steps = 1;
  test.thread_exhaustive_steps = 2;
  test.preemptions = 1;
  ExpectSurvivesPowerCuts<Agreeing<Pair<>>>(test);
  Agreeing<Pair<>>::compares = true;
}

// ---- What is wrong.

std::string FailureWith(const std::string& defect, Weakness weakness, std::vector<Step> steps = {}) {
  planted_defect = defect;
  auto test = Exploration<Pair<>>(weakness);
  test.steps = std::move(steps);
  const PowerCutReport report = ExplorePowerCuts(test);
  planted_defect.clear();
  std::printf("after %llu states:\n%s\n",
              static_cast<unsigned long long>(report.enumerated + report.sampled + report.in_recovery), report.failure.c_str());
  return report.failure;
}

TEST(MirrorPowerCutTest, FindsIntentsThatAreNotDurableBeforeTheData) {
  EXPECT_THAT(FailureWith("mirror-intent-not-durable", {}), HasSubstr("differs"));
}

TEST(MirrorPowerCutTest, FindsIntentsThatAreClearedBeforeTheFlush) {
  EXPECT_THAT(FailureWith("mirror-clear-before-flush", {}), HasSubstr("differs"));
}

TEST(MirrorPowerCutTest, FindsDoubtfulBytesThatAreReadFromAnyLeg) {
  EXPECT_THAT(FailureWith("mirror-doubt-read-from-any", {}), HasSubstr("differs"));
}

// The leg that is believed after a cut is the one that failed.
TEST(MirrorPowerCutTest, FindsAnAnswerBeforeTheDegradedStateIsDurable) {
  EXPECT_THAT(FailureWith("mirror-degraded-not-durable", {.leg = 0, .refused = {kData + 512, 512}}),
              HasSubstr("allowed is what was written"));
}

TEST(MirrorPowerCutTest, FindsReadsFromAStaleLeg) {
  EXPECT_NE(FailureWith("mirror-reads-stale-leg", {.leg = 0, .missing_until = 3}), "");
}

TEST(MirrorPowerCutTest, FindsATrimThatReachesOneLeg) {
  EXPECT_THAT(FailureWith("mirror-trims-one-leg", {}), HasSubstr("differs"));
}

TEST(MirrorPowerCutTest, FindsALegCalledInSyncBeforeItWasFlushed) {
  EXPECT_NE(FailureWith("mirror-rebuilt-not-flushed", {.leg = 1, .missing_until = 3}), "");
}

TEST(MirrorPowerCutTest, FindsANewLegThatIsReadBeforeItWasRebuilt) {
  EXPECT_NE(FailureWith("mirror-reads-stale-leg", {.leg = 0, .replaced = true}), "");
}

TEST(MirrorPowerCutTest, FindsANewLegCalledInSyncBeforeItWasFlushed) {
  EXPECT_NE(FailureWith("mirror-rebuilt-not-flushed", {.leg = 1, .replaced = true}), "");
}

TEST(MirrorPowerCutTest, FindsANewLegCalledInSyncBeforeItHasAHead) {
  EXPECT_THAT(FailureWith("mirror-rebuilt-without-head", {.leg = 1, .replaced = true}), HasSubstr("no head that can be read"));
}

TEST(MirrorPowerCutTest, FindsALegThatIsBelievedThoughItWasReplaced) {
  EXPECT_NE(FailureWith("mirror-old-leg-believed", {.leg = 1, .replaced = true, .old_one_comes_back = true}), "");
}

}  // namespace
}  // namespace buse::testing
