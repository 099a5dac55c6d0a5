// SPDX-License-Identifier: Apache-2.0
//
// PowerCut: what is held back, what Flush and WriteThrough make durable, and what a crash may leave. That its crash states are
// the legal ones is proved in tests/power_cut.

#include "layers/power_cut.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "buse/options.h"
#include "gtest/gtest.h"
#include "layers/file_backed.h"
#include "layers/serialize.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"

template struct buse::PowerCut<buse::testing::Full>;
template struct buse::PowerCut<buse::testing::BasicFull<4096, buse::Concurrency::kParallel>>;

namespace buse::testing {
namespace {

static_assert(kCapabilities<PowerCut<Full>> ==
              Capabilities{.write = true, .write_through = true, .trim = true, .write_zeroes = true, .prefetch = true});
static_assert(kCapabilities<PowerCut<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<PowerCut<Bare>> == kNothing);
static_assert(PowerCut<Full512>::kBlockSize == 512);
static_assert(PowerCut<Full>::kConcurrency == Concurrency::kSerial);

using Stack = PowerCut<Full>;
using Medium = std::vector<std::byte>;

Medium Filled(size_t size, int value) { return Medium(size, static_cast<std::byte>(value)); }

Medium ReadAll(Stack::State& state) {
  Medium bytes(Stack::Size(state));
  EXPECT_TRUE(Stack::Read(state, 0, bytes).ok());
  return bytes;
}

class PowerCutTest : public ::testing::Test {
 protected:
  void Open(Stack::Config config = {}) {
    config.below = {.size = 4096, .script = &script_};
    ASSERT_TRUE(Stack::Open(config, state_).ok());
  }

  Script script_;
  Stack::State state_;
};

TEST_F(PowerCutTest, ChangesStayInMemoryUntilFlush) {
  Open();
  ASSERT_TRUE(Stack::Write(state_, 0, Filled(1024, 1)).ok());
  ASSERT_TRUE(Stack::Trim(state_, {512, 256}).ok());
  ASSERT_TRUE(Stack::WriteZeroes(state_, {0, 16}).ok());
  EXPECT_TRUE(script_.calls.empty());
  Medium expected = Filled(4096, 0);
  std::fill(expected.begin() + 16, expected.begin() + 512, std::byte{1});
  std::fill(expected.begin() + 768, expected.begin() + 1024, std::byte{1});
  EXPECT_EQ(ReadAll(state_), expected);
  EXPECT_EQ(script_.medium, Filled(4096, 0));
  script_.calls.clear();
  ASSERT_TRUE(Stack::Flush(state_).ok());
  EXPECT_EQ(script_.medium, expected);
  EXPECT_EQ(script_.calls,
            (std::vector<Call>{{"Write", {0, 1024}}, {"Trim", {512, 256}}, {"WriteZeroes", {0, 16}}, {"Flush", {}}}));
}

TEST_F(PowerCutTest, WriteThroughMakesItsOwnSectorsDurableAndNoOthers) {
  Open();
  ASSERT_TRUE(Stack::Write(state_, 0, Filled(1536, 1)).ok());
  ASSERT_TRUE(Stack::WriteThrough(state_, 600, Filled(10, 2)).ok());
  ASSERT_TRUE(Stack::Crash(state_, [](uint64_t) { return 0; }).ok());
  Medium expected = Filled(4096, 0);
  std::fill(expected.begin() + 512, expected.begin() + 1024, std::byte{1});
  std::fill(expected.begin() + 600, expected.begin() + 610, std::byte{2});
  EXPECT_EQ(script_.medium, expected);
}

TEST_F(PowerCutTest, ACrashLeavesEverySubsetOfTheUnflushed) {
  std::set<Medium> seen;
  for (uint64_t picks = 0; picks < 2 * 3; ++picks) {
    Script script;
    Stack::State state;
    ASSERT_TRUE(Stack::Open({.below = {.size = 4096, .script = &script}}, state).ok());
    ASSERT_TRUE(Stack::Write(state, 0, Filled(1024, 1)).ok());
    ASSERT_TRUE(Stack::Write(state, 512, Filled(512, 2)).ok());
    std::vector<uint64_t> asked;
    uint64_t left = picks;
    ASSERT_TRUE(Stack::Crash(state, [&](uint64_t n) {
                  asked.push_back(n);
                  const uint64_t pick = left % n;
                  left /= n;
                  return pick;
                }).ok());
    EXPECT_EQ(asked, (std::vector<uint64_t>{2, 3}));
    seen.insert(script.medium);
  }
  std::set<Medium> expected;
  for (int first : {0, 1}) {
    for (int second : {0, 1, 2}) {
      Medium medium = Filled(4096, 0);
      std::fill(medium.begin(), medium.begin() + 512, static_cast<std::byte>(first));
      std::fill(medium.begin() + 512, medium.begin() + 1024, static_cast<std::byte>(second));
      expected.insert(medium);
    }
  }
  EXPECT_EQ(seen, expected);
}

TEST_F(PowerCutTest, AfterTheCrashEveryCallFailsUntilItIsOpenedAgain) {
  Open();
  ASSERT_TRUE(Stack::Write(state_, 0, Filled(512, 1)).ok());
  ASSERT_TRUE(Stack::Crash(state_, [](uint64_t) { return 1; }).ok());
  Medium bytes(512);
  const auto kOff = absl::StatusCode::kUnavailable;
  EXPECT_EQ(Stack::Read(state_, 0, bytes).code(), kOff);
  EXPECT_EQ(Stack::Write(state_, 0, bytes).code(), kOff);
  EXPECT_EQ(Stack::WriteThrough(state_, 0, bytes).code(), kOff);
  EXPECT_EQ(Stack::Trim(state_, {0, 512}).code(), kOff);
  EXPECT_EQ(Stack::WriteZeroes(state_, {0, 512}).code(), kOff);
  EXPECT_EQ(Stack::Prefetch(state_, {0, 512}).code(), kOff);
  EXPECT_EQ(Stack::Flush(state_).code(), kOff);
  Stack::State again;
  ASSERT_TRUE(Stack::Open({.below = {.size = 4096, .script = &script_}}, again).ok());
  ASSERT_TRUE(Stack::Read(again, 0, bytes).ok());
  EXPECT_EQ(bytes, Filled(512, 1));
}

TEST_F(PowerCutTest, WhileThePowerIsOffItDoesNotOpen) {
  Power power = {.on = false};
  EXPECT_EQ(Stack::Open({.power = &power, .below = {.size = 4096, .script = &script_}}, state_).code(),
            absl::StatusCode::kUnavailable);
  power.on = true;
  Stack::State again;
  EXPECT_TRUE(Stack::Open({.power = &power, .below = {.size = 4096, .script = &script_}}, again).ok());
}

// Each change may be the one during which the power goes, and may then survive or not; a flush then loses what it held.
TEST_F(PowerCutTest, TheChangeDuringWhichThePowerGoesMaySurvive) {
  const Medium data = Filled(512, 2);
  const std::vector<std::pair<std::function<absl::Status(Stack::State&)>, int>> changes = {
      {[&](auto& state) { return Stack::Write(state, 0, data); }, 2},
      {[&](auto& state) { return Stack::WriteThrough(state, 0, data); }, 2},
      {[&](auto& state) {
         return Stack::Trim(state, {0, 512});
       },
       0},
      {[&](auto& state) {
         return Stack::WriteZeroes(state, {0, 512});
       },
       0},
      {[&](auto& state) { return Stack::Flush(state); }, 1},
  };
  for (const auto& [change, value] : changes) {
    std::set<std::byte> survivors;
    for (const uint64_t last : {0, 1}) {
      Script script;
      Power power;
      Stack::State state;
      ASSERT_TRUE(Stack::Open({.power = &power, .below = {.size = 4096, .script = &script}}, state).ok());
      // On the medium is a 3; held is a 1.
      ASSERT_TRUE(Stack::Write(state, 0, Filled(512, 3)).ok());
      ASSERT_TRUE(Stack::Flush(state).ok());
      ASSERT_TRUE(Stack::Write(state, 0, Filled(512, 1)).ok());
      power.cut_at = power.changes;
      EXPECT_EQ(change(state).code(), absl::StatusCode::kUnavailable);
      ASSERT_TRUE(Stack::Crash(state, [&](uint64_t n) { return last == 0 ? 0 : n - 1; }).ok());
      survivors.insert(script.medium[0]);
    }
    EXPECT_EQ(survivors, (std::set<std::byte>{std::byte{3}, static_cast<std::byte>(value)}));
  }
}

TEST_F(PowerCutTest, ChangesAreCountedAndNothingElseIs) {
  Power power;
  Open({.power = &power});
  Medium bytes(512);
  ASSERT_TRUE(Stack::Write(state_, 0, bytes).ok());
  ASSERT_TRUE(Stack::WriteThrough(state_, 0, bytes).ok());
  ASSERT_TRUE(Stack::Trim(state_, {0, 512}).ok());
  ASSERT_TRUE(Stack::WriteZeroes(state_, {0, 512}).ok());
  ASSERT_TRUE(Stack::Flush(state_).ok());
  EXPECT_EQ(power.changes, 5u);
  ASSERT_TRUE(Stack::Read(state_, 0, bytes).ok());
  ASSERT_TRUE(Stack::Prefetch(state_, {0, 512}).ok());
  EXPECT_EQ(power.changes, 5u);
}

TEST_F(PowerCutTest, WhatCouldNotBeWrittenStaysHeldAndTheNextFlushTriesAgain) {
  Open();
  ASSERT_TRUE(Stack::Write(state_, 0, Filled(512, 1)).ok());
  ASSERT_TRUE(Stack::Write(state_, 512, Filled(512, 2)).ok());
  script_.fail_at = 1;  // the second of the two
  EXPECT_EQ(Stack::Flush(state_), script_.error);
  Medium want = Filled(4096, 0);
  std::fill_n(want.begin(), 512, std::byte{1});
  EXPECT_EQ(script_.medium, want);
  std::fill_n(want.begin() + 512, 512, std::byte{2});
  EXPECT_EQ(ReadAll(state_), want);
  script_.calls.clear();
  script_.fail_at = -1;
  ASSERT_TRUE(Stack::Flush(state_).ok());
  EXPECT_EQ(script_.calls, (std::vector<Call>{{"Write", {512, 512}}, {"Flush", {}}}));
  EXPECT_EQ(script_.medium, want);
}

TEST_F(PowerCutTest, ItsOptionsAreThoseOfTheExample) {
  Stack::Config config;
  std::vector<LayerInfo> layers = DescribeStack<Stack>(config);
  const char* argv[] = {"disk", "--cut-after", "2", "--seed", "7", "--sector", "4096", "--cache", "1M"};
  ASSERT_TRUE(ParseCommandLine(9, argv, {}, layers).ok());
  Open(config);
  EXPECT_EQ(state_.sector, 4096u);
  EXPECT_EQ(state_.cache, uint64_t{1} << 20);
  EXPECT_EQ(state_.seed, 7u);
  EXPECT_TRUE(Stack::Write(state_, 0, Filled(512, 1)).ok());
  EXPECT_TRUE(Stack::Flush(state_).ok());
  EXPECT_EQ(Stack::Write(state_, 0, Filled(512, 2)).code(), absl::StatusCode::kUnavailable);
}

// What bears one call at a time, with the lock that makes many of them one: threads count upwards in sectors of their own
// until the power goes, and none finds less than it flushed or more than it wrote.
TEST(PowerCutThreadsTest, EachThreadKeepsWhatItFlushed) {
  using Stack = Serialize<PowerCut<Full>>;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Script script;
    Power power = {.cut_at = 100 + 7 * seed};
    auto state = std::make_unique<Stack::State>();
    ASSERT_TRUE(
        Stack::Open({.below = {.cache = 8192, .power = &power, .below = {.size = 4096, .script = &script}}}, *state).ok());
    std::array<int, 4> written{};
    std::array<int, 4> flushed{};
    std::vector<std::thread> threads;
    for (size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (int value = 1; value < 200; ++value) {
          written[t] = value;  // the one during which the power goes may survive
          if (!Stack::Write(*state, 512 * t, Filled(512, value)).ok()) return;
          if (value % (t + 3) != 0) continue;
          if (!Stack::Flush(*state).ok()) return;
          flushed[t] = value;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_FALSE(power.on);
    std::mt19937_64 random(seed);
    ASSERT_TRUE(PowerCut<Full>::Crash(state->below, [&](uint64_t n) { return random() % n; }).ok());
    for (size_t t = 0; t < 4; ++t) {
      const int found = std::to_integer<int>(script.medium[512 * t]);
      EXPECT_GE(found, flushed[t]) << "thread " << t << ", seed " << seed;
      EXPECT_LE(found, written[t]) << "thread " << t << ", seed " << seed;
      EXPECT_EQ(Medium(script.medium.begin() + 512 * t, script.medium.begin() + 512 * t + 512), Filled(512, found));
    }
  }
}

TEST_F(PowerCutTest, ThePowerOfSeveralDisksGoesAtOnce) {
  Power power = {.cut_at = 1};
  Script other_script;
  Stack::State other;
  Open({.power = &power});
  ASSERT_TRUE(Stack::Open({.power = &power, .below = {.size = 4096, .script = &other_script}}, other).ok());
  EXPECT_TRUE(Stack::Write(state_, 0, Filled(512, 1)).ok());
  EXPECT_EQ(Stack::Write(other, 0, Filled(512, 2)).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Stack::Write(state_, 0, Filled(512, 3)).code(), absl::StatusCode::kUnavailable);
  // The change during which the power went may survive.
  ASSERT_TRUE(Stack::Crash(other, [](uint64_t n) { return n - 1; }).ok());
  EXPECT_EQ(other_script.medium[0], std::byte{2});
  ASSERT_TRUE(Stack::Crash(state_, [](uint64_t n) { return n - 1; }).ok());
  EXPECT_EQ(script_.medium[0], std::byte{1});
}

TEST_F(PowerCutTest, WriteThroughIsTornWhenThePowerGoesDuringIt) {
  Power power = {.cut_at = 0};
  Open({.power = &power});
  EXPECT_EQ(Stack::WriteThrough(state_, 0, Filled(1024, 1)).code(), absl::StatusCode::kUnavailable);
  uint64_t pick = 0;
  ASSERT_TRUE(Stack::Crash(state_, [&](uint64_t) { return pick++; }).ok());
  Medium expected = Filled(4096, 0);
  std::fill(expected.begin() + 512, expected.begin() + 1024, std::byte{1});
  EXPECT_EQ(script_.medium, expected);
}

TEST_F(PowerCutTest, TheOldestIsWrittenWhereTheCacheIsFull) {
  Open({.cache = 1024});
  ASSERT_TRUE(Stack::Write(state_, 0, Filled(512, 1)).ok());
  ASSERT_TRUE(Stack::Write(state_, 512, Filled(512, 2)).ok());
  EXPECT_TRUE(script_.calls.empty());
  ASSERT_TRUE(Stack::Write(state_, 1024, Filled(1, 3)).ok());
  EXPECT_EQ(script_.calls, (std::vector<Call>{{"Write", {0, 512}}}));
  ASSERT_TRUE(Stack::Trim(state_, {0, 4096}).ok());
  EXPECT_EQ(ReadAll(state_), Filled(4096, 0));
  EXPECT_EQ(state_.held->bytes(), 0u);
}

// The end of the device need not be that of a sector.
TEST_F(PowerCutTest, TheLastSectorMayBeShort) {
  ASSERT_TRUE(Stack::Open({.below = {.size = 1000, .script = &script_}}, state_).ok());
  ASSERT_TRUE(Stack::Write(state_, 900, Filled(100, 1)).ok());
  ASSERT_TRUE(Stack::WriteThrough(state_, 999, Filled(1, 2)).ok());
  ASSERT_TRUE(Stack::Crash(state_, [](uint64_t) { return 0; }).ok());
  EXPECT_EQ(script_.medium[998], std::byte{1});
  EXPECT_EQ(script_.medium[999], std::byte{2});
}

TEST(PowerCutBlocksTest, SectorsTearWithinABlock) {
  using Blocks = PowerCut<BasicFull<4096, Concurrency::kParallel>>;
  Script script;
  Blocks::State state;
  ASSERT_TRUE(Blocks::Open({.below = {.size = 8192, .script = &script}}, state).ok());
  ASSERT_TRUE(Blocks::Write(state, 4096, Filled(4096, 1)).ok());
  uint64_t sector = 0;
  ASSERT_TRUE(Blocks::Crash(state, [&](uint64_t) { return sector++ % 2; }).ok());
  EXPECT_EQ(sector, 8u);
  EXPECT_EQ(script.medium[4096], std::byte{0});
  EXPECT_EQ(script.medium[4096 + 512], std::byte{1});
  EXPECT_EQ(script.medium[4096 + 1024], std::byte{0});
  for (const Call& call : script.calls) EXPECT_EQ(call.range.offset % 4096 + call.range.length % 4096, 0u);
}

TEST(PowerCutBlocksTest, ASectorLargerThanABlockIsWrittenWhole) {
  Script script;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.sector = 4096, .below = {.size = 8192, .script = &script}}, state).ok());
  ASSERT_TRUE(Stack::Write(state, 0, Filled(10, 1)).ok());
  ASSERT_TRUE(Stack::Write(state, 4000, Filled(200, 2)).ok());
  std::vector<uint64_t> asked;
  ASSERT_TRUE(Stack::Crash(state, [&](uint64_t n) {
                asked.push_back(n);
                return n - 1;
              }).ok());
  EXPECT_EQ(asked, (std::vector<uint64_t>{3, 2}));
}

TEST(PowerCutOpenTest, RefusesSectorsThatAreNone) {
  for (uint64_t sector : {0, 1, 256, 1000}) {
    Stack::State state;
    const absl::Status status = Stack::Open({.sector = sector}, state);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << sector;
    EXPECT_NE(std::string(status.message()).find("take 512 or 4096"), std::string::npos);
  }
}

TEST(PowerCutOpenTest, RefusesSectorsThatBlocksDoNotDivide) {
  using Odd = PowerCut<BasicFull<768, Concurrency::kParallel>>;
  Odd::State state;
  const absl::Status status = Odd::Open({.below = {.size = 7680}}, state);
  EXPECT_EQ(status,
            absl::InvalidArgumentError("power-cut: a sector of 512 bytes and blocks of 768 below do not divide each other"));
}

TEST(PowerCutFailureTest, WhatFailsBelowStaysHeld) {
  const auto configure = [](Script& script) { return Stack::Config{.below = {.size = 4096, .script = &script}}; };
  const Medium bytes = Filled(100, 7);
  EXPECT_EQ(FailNth<Stack>(configure, {700, 100},
                           [&](auto& state) {
                             absl::Status status = Stack::Write(state, 700, bytes);
                             return status.ok() ? Stack::Flush(state) : status;
                           }),
            3);  // what FailNth filled it with, the write and the flush
  EXPECT_EQ(FailNth<Stack>(configure, {700, 100}, [&](auto& state) { return Stack::WriteThrough(state, 700, bytes); }), 2);
}

// Power that goes by itself, over a real file.
TEST(PowerCutFileTest, TheSeedDecidesWhatSurvives) {
  using Stack = PowerCut<FileBacked>;
  const auto survivors = [](uint64_t seed) {
    const std::string path = std::string(::testing::TempDir()) + "/power-cut-" + std::to_string(getpid());
    unlink(path.c_str());
    Medium bytes(8192);
    {
      Stack::State state;
      EXPECT_TRUE(Stack::Open({.cut_after = 2, .seed = seed, .below = {.path = path, .create = 8192}}, state).ok());
      EXPECT_TRUE(Stack::Write(state, 0, Filled(4096, 1)).ok());
      EXPECT_TRUE(Stack::Flush(state).ok());
      EXPECT_EQ(Stack::Write(state, 0, Filled(8192, 2)).code(), absl::StatusCode::kUnavailable);
    }
    Stack::State state;
    EXPECT_TRUE(Stack::Open({.below = {.path = path}}, state).ok());
    EXPECT_TRUE(Stack::Read(state, 0, bytes).ok());
    unlink(path.c_str());
    return bytes;
  };
  std::set<Medium> seen;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const Medium bytes = survivors(seed);
    EXPECT_EQ(bytes, survivors(seed));
    for (size_t at = 0; at < bytes.size(); at += 512) {
      const std::byte old = at < 4096 ? std::byte{1} : std::byte{0};
      EXPECT_TRUE(bytes[at] == old || bytes[at] == std::byte{2}) << at;
      EXPECT_EQ(Medium(bytes.begin() + at, bytes.begin() + at + 512), Medium(512, bytes[at]));
    }
    seen.insert(bytes);
  }
  EXPECT_GT(seen.size(), 4u);
}

}  // namespace
}  // namespace buse::testing
