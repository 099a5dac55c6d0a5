// SPDX-License-Identifier: Apache-2.0
//
// RateLimit: who pays which bucket. Rates are compared with each other, since the machine may be busy; what a bucket does
// exactly is for its own test.

#include "layers/rate_limit.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "gtest/gtest.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"

template struct buse::Observer<buse::RateLimitHook, buse::testing::Full>;

namespace buse::testing {
namespace {

using std::chrono::duration;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

static_assert(kCapabilities<RateLimit<Full>> == kEverythingObserved);
static_assert(kCapabilities<RateLimit<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<RateLimit<Bare>> == kNothing);
static_assert(RateLimit<Full512>::kBlockSize == 512);
static_assert(RateLimit<BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);

using Stack = RateLimit<Full>;
using Operate = std::function<absl::Status(Stack::State&)>;

const Operate kRead = [](auto& state) {
  std::array<std::byte, 512> bytes;
  return Stack::Read(state, 0, bytes);
};
const Operate kWrite = [](auto& state) { return Stack::Write(state, 0, std::array<std::byte, 512>{}); };

struct Expected {
  const char* name;
  Operate operate;
  bool read_iops, write_iops, read_bandwidth, write_bandwidth;  // what it pays
};
const std::vector<Expected> kTable = {
    {"read", kRead, 1, 0, 1, 0},
    {"view",
     [](auto& state) {
       static Gather gather;
       gather.Release();
       return Stack::View(state, {0, 512}, gather);
     },
     1, 0, 1, 0},
    {"write", kWrite, 0, 1, 0, 1},
    {"write-through", [](auto& state) { return Stack::WriteThrough(state, 0, std::array<std::byte, 512>{}); }, 0, 1, 0, 1},
    {"trim",
     [](auto& state) {
       return Stack::Trim(state, {0, 512});
     },
     0, 1, 0, 0},
    {"write-zeroes",
     [](auto& state) {
       return Stack::WriteZeroes(state, {0, 512});
     },
     0, 1, 0, 0},
    {"flush", [](auto& state) { return Stack::Flush(state); }, 0, 0, 0, 0},
    {"extents",
     [](auto& state) {
       return Stack::Extents(state, {8, 9}, [](const Extent&) { return true; });
     },
     0, 0, 0, 0},
    {"prefetch",
     [](auto& state) {
       return Stack::Prefetch(state, {10, 512});
     },
     0, 0, 0, 0},
    {"resize", [](auto& state) { return Stack::Resize(state, 4096); }, 0, 0, 0, 0},
};

TEST(RateLimitTest, EachPaysItsOwnAndArrives) {
  // At one token a second, whoever paid owes.
  for (const Expected& expected : kTable) {
    SCOPED_TRACE(expected.name);
    Stack::State state;
    ASSERT_TRUE(
        Stack::Open(
            {.read_iops = 1, .write_iops = 1, .read_bandwidth = 1, .write_bandwidth = 1, .burst = 0, .below = {.size = 4096}},
            state)
            .ok());
    const auto start = steady_clock::now();
    EXPECT_TRUE(expected.operate(state).ok());
    EXPECT_EQ(state.below.script->calls.size(), 1u);
    const auto owes = [&](TokenBucket& bucket) { return bucket.Take(start.time_since_epoch(), 1) > start.time_since_epoch(); };
    EXPECT_EQ(owes(state.hook.read.requests), expected.read_iops);
    EXPECT_EQ(owes(state.hook.write.requests), expected.write_iops);
    EXPECT_EQ(owes(state.hook.read.bytes), expected.read_bandwidth);
    EXPECT_EQ(owes(state.hook.write.bytes), expected.write_bandwidth);
  }
}

// How often an operation is done in a while by some threads, and how long the while was.
struct Done {
  uint64_t count;
  double seconds;
};
Done Repeat(const Stack::Config& config, const Operate& operate, int threads) {
  Stack::State state;
  EXPECT_TRUE(Stack::Open(config, state).ok());
  const auto start = steady_clock::now();
  std::atomic<uint64_t> count = 0;
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t) {
    running.emplace_back([&] {
      while (steady_clock::now() - start < milliseconds(150)) {
        EXPECT_TRUE(operate(state).ok());
        ++count;
      }
    });
  }
  for (std::thread& thread : running) thread.join();
  return {count, duration<double>(steady_clock::now() - start).count()};
}

// How much faster four times the rate is.
double RatioOfFourToOne(const Operate& operate, bool bandwidth, int threads) {
  const auto run = [&](uint64_t rate) {
    Stack::Config config = {.burst = 100, .below = {.size = 4096}};
    (bandwidth ? config.read_bandwidth : config.read_iops) = bandwidth ? 512 * rate : rate;
    (bandwidth ? config.write_bandwidth : config.write_iops) = bandwidth ? 512 * rate : rate;
    const Done done = Repeat(config, operate, threads);
    // The one bound that holds on any machine.
    EXPECT_LE(done.count, rate * (done.seconds + 0.1) + 1);
    return done.count / (done.seconds + 0.1);
  };
  return run(400) / run(100);
}

TEST(RateLimitTest, FourTimesTheRateIsFourTimesAsMuch) {
  const auto nearly_four = [](double ratio) { return ratio > 3 && ratio < 5; };
  for (const auto& [operate, threads] : std::vector<std::pair<Operate, int>>{{kRead, 1}, {kRead, 3}, {kWrite, 1}}) {
    for (const bool bandwidth : {false, true}) {
      double ratio = 0;
      // A busy machine may do less than it is allowed to, but not always.
      for (int i = 0; i < 10 && !nearly_four(ratio); ++i) ratio = RatioOfFourToOne(operate, bandwidth, threads);
      EXPECT_TRUE(nearly_four(ratio)) << ratio;
    }
  }
}

TEST(RateLimitTest, TheDirectionsAndTheUnlimitedDoNotWaitForEachOther) {
  const Stack::Config config = {.read_iops = 10, .below = {.size = 4096}};
  EXPECT_GT(Repeat(config, kWrite, 1).count, 10 * Repeat(config, kRead, 1).count);
}

TEST(RateLimitTest, TheTighterLimitHolds) {
  const uint64_t few = Repeat({.read_iops = 1000, .read_bandwidth = 51200, .below = {.size = 4096}}, kRead, 1).count;
  const uint64_t as_few = Repeat({.read_iops = 100, .read_bandwidth = 512000, .below = {.size = 4096}}, kRead, 1).count;
  EXPECT_LT(few, 4 * as_few);
  EXPECT_LT(as_few, 4 * few);
}

TEST(RateLimitTest, ARequestLargerThanTheBurstPasses) {
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.write_bandwidth = 1000, .burst = 1, .below = {.size = 4096}}, state).ok());
  const auto start = steady_clock::now();
  EXPECT_TRUE(Stack::Write(state, 0, std::vector<std::byte>(100)).ok());
  EXPECT_TRUE(Stack::Write(state, 0, std::vector<std::byte>(1)).ok());
  EXPECT_GE(steady_clock::now() - start, milliseconds(99)) << "the one behind it waits until it is paid for";
}

TEST(RateLimitTest, ABurstPassesAtOnce) {
  for (const auto& [operate, config] : std::vector<std::pair<Operate, Stack::Config>>{{kRead, {.read_iops = 1}},
                                                                                      {kWrite, {.write_iops = 1}},
                                                                                      {kRead, {.read_bandwidth = 512}},
                                                                                      {kWrite, {.write_bandwidth = 512}}}) {
    Stack::Config bursty = config;
    bursty.burst = 10000;
    Stack::State state;
    ASSERT_TRUE(Stack::Open(bursty, state).ok());
    const auto start = steady_clock::now();
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(operate(state).ok());
    EXPECT_LT(steady_clock::now() - start, milliseconds(5000)) << "at one a second, they would take nine";
  }
}

TEST(RateLimitTest, WhatSendsNoBytesDoesNotWaitForThem) {
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.write_bandwidth = 100, .burst = 0}, state).ok());
  const auto start = steady_clock::now();
  EXPECT_TRUE(Stack::Write(state, 0, std::vector<std::byte>(2000)).ok());
  EXPECT_TRUE(Stack::Trim(state, {0, 512}).ok());
  EXPECT_TRUE(Stack::WriteZeroes(state, {0, 512}).ok());
  EXPECT_LT(steady_clock::now() - start, milliseconds(10000)) << "a write would wait for 20 seconds";
}

TEST(RateLimitTest, WhatWaitsHoldsNoLock) {
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.write_bandwidth = 1000, .burst = 0, .below = {.size = 4096}}, state).ok());
  EXPECT_TRUE(Stack::Write(state, 2048, std::vector<std::byte>(400)).ok());
  std::atomic<bool> written = false;
  std::thread writer([&] {
    EXPECT_TRUE(Stack::Write(state, 2048, std::vector<std::byte>(1)).ok());
    written = true;
  });
  // Many of these fit into the 400 ms that the writer waits.
  int reads = 0;
  for (; !written; ++reads) EXPECT_TRUE(kRead(state).ok());
  writer.join();
  EXPECT_GT(reads, 10);
}

TEST(RateLimitTest, WhatFailedIsPaidFor) {
  Script script;
  script.fail_at = 0;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.read_iops = 20, .burst = 0, .below = {.size = 4096, .script = &script}}, state).ok());
  const auto start = steady_clock::now();
  EXPECT_EQ(kRead(state), script.error);
  EXPECT_TRUE(kRead(state).ok());
  EXPECT_GE(steady_clock::now() - start, milliseconds(50));
}

TEST(RateLimitTest, ABurstOfMoreThanAnHourIsRefused) {
  Stack::State refused;
  EXPECT_EQ(
      Stack::Open({.burst = 3600001}, refused),
      absl::InvalidArgumentError("rate-limit: a burst of 3600001 ms is too long: the most is an hour, which is 3600000 ms"));
  Stack::State accepted;
  EXPECT_TRUE(Stack::Open({.burst = 3600000}, accepted).ok());
}

TEST(RateLimitTest, EveryErrorBelowSurfaces) {
  const auto configure = [](Script& script) {
    return Stack::Config{.read_iops = 1000000, .below = {.size = 4096, .script = &script}};
  };
  std::array<std::byte, 16> bytes{};
  EXPECT_EQ(FailNth<Stack>(configure, {7, 16}, [&](auto& state) { return Stack::Write(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Read(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Flush(state); }), 1);
}

}  // namespace
}  // namespace buse::testing
