// SPDX-License-Identifier: Apache-2.0
//
// Stats: what is counted, how exact it is, and the table.

#include "layers/stats.h"

#include <array>
#include <bit>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/cache.h"
#include "layers/delay.h"
#include "layers/observer.h"
#include "layers/operation.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"
#include "tests/steer.h"

template struct buse::Observer<buse::StatsHook, buse::testing::Full>;

namespace buse::testing {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;

static_assert(kCapabilities<Stats<Full>> == kEverythingTold);
static_assert(kCapabilities<Stats<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Stats<Bare>> == kNothing);
static_assert(Stats<Full512>::kBlockSize == 512);
static_assert(Stats<BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);
static_assert(sizeof(StatsCounters) <= 198 * 1024 && sizeof(StatsCounters) > 196 * 1024, "what the header says");
static_assert(alignof(StatsCounters) >= 64, "no shard shares a cache line");

using Stack = Stats<Full>;

struct Opened {
  explicit Opened(Script& script) { EXPECT_TRUE(Stack::Open({.below = {.size = 65536, .script = &script}}, *state).ok()); }
  StatsSnapshot Snapshot() const { return state->hook.Snapshot(); }
  std::unique_ptr<Stack::State> state = std::make_unique<Stack::State>();
};

TEST(LatencyBucketsTest, EveryBucketIsAQuarterOfItsPowerOfTwoAtMost) {
  uint64_t begin = 0;
  for (size_t bucket = 0; bucket + 1 < LatencyBuckets::kCount; ++bucket) {
    const uint64_t longest = LatencyBuckets::Longest(bucket);
    ASSERT_EQ(LatencyBuckets::Of(begin), bucket);
    ASSERT_EQ(LatencyBuckets::Of(longest), bucket);
    ASSERT_LE(4 * (longest - begin), begin) << "at most a quarter too large";
    begin = longest + 1;
    ASSERT_EQ(LatencyBuckets::Of(begin), bucket + 1);
  }
  EXPECT_GT(begin, 60000000000u);
  EXPECT_EQ(LatencyBuckets::Of(UINT64_MAX), LatencyBuckets::kCount - 1);
}

TEST(StatsTest, EveryOperationIsCountedAndArrivesBelow) {
  Script script;
  Opened opened(script);
  Stack::State& state = *opened.state;
  std::array<std::byte, 16> bytes{};
  Gather gather;
  EXPECT_TRUE(Stack::Read(state, 1, bytes).ok());
  EXPECT_TRUE(Stack::Write(state, 2, bytes).ok());
  EXPECT_TRUE(Stack::Write(state, 2, bytes).ok());
  EXPECT_TRUE(Stack::WriteThrough(state, 3, bytes).ok());
  EXPECT_TRUE(Stack::Flush(state).ok());
  EXPECT_TRUE(Stack::Trim(state, {4, 5}).ok());
  EXPECT_TRUE(Stack::WriteZeroes(state, {6, 7}).ok());
  EXPECT_TRUE(Stack::Extents(state, {8, 9}, [](const Extent&) { return true; }).ok());
  EXPECT_TRUE(Stack::Prefetch(state, {10, 11}).ok());
  EXPECT_TRUE(Stack::View(state, {12, 13}, gather).ok());
  EXPECT_TRUE(Stack::Resize(state, 8192).ok());
  EXPECT_EQ(script.calls.size(), 11u);

  const StatsSnapshot snapshot = opened.Snapshot();
  // Of all but Residency, which this leaf does not have.
  const std::array<uint64_t, kOperations - 1> counts = {1, 2, 1, 1, 1, 1, 1, 1, 1, 1};
  const std::array<uint64_t, kOperations - 1> lengths = {16, 32, 0, 16, 5, 7, 9, 11, 13, 0};
  for (size_t i = 0; i < counts.size(); ++i) {
    SCOPED_TRACE(ToString(static_cast<Operation>(i)));
    EXPECT_EQ(snapshot.operations[i].count, counts[i]);
    EXPECT_EQ(snapshot.operations[i].bytes, lengths[i]);
    EXPECT_EQ(snapshot.operations[i].errors, 0u);
    EXPECT_GT(snapshot.operations[i].max, nanoseconds(0));
  }
  EXPECT_EQ(snapshot[Operation::kWrite].count, 2u);
}

TEST(StatsTest, WhatIsAskedOfACacheIsCounted) {
  using Stack = Stats<Cache<Full>>;
  auto state = std::make_unique<Stack::State>();
  ASSERT_TRUE(Stack::Open({.below = {.size = 65536, .below = {.size = 65536}}}, *state).ok());
  ASSERT_TRUE(Stack::Residency(*state, {8, 9}, [](const Resident&) { return true; }).ok());
  const StatsSnapshot snapshot = state->hook.Snapshot();
  const auto& counted = snapshot[Operation::kResidency];
  EXPECT_EQ(counted.count, 1u);
  EXPECT_EQ(counted.bytes, 9u);
  EXPECT_GT(counted.max, nanoseconds(0));
}

TEST(StatsTest, AFailedRequestCountsWithoutItsBytes) {
  Script script;
  script.fail_at = 1;
  Opened opened(script);
  std::array<std::byte, 16> bytes{};
  EXPECT_TRUE(Stack::Write(*opened.state, 0, bytes).ok());
  EXPECT_EQ(Stack::Write(*opened.state, 0, bytes), script.error);
  const StatsSnapshot snapshot = opened.Snapshot();
  EXPECT_EQ(snapshot[Operation::kWrite].count, 2u);
  EXPECT_EQ(snapshot[Operation::kWrite].bytes, 16u);
  EXPECT_EQ(snapshot[Operation::kWrite].errors, 1u);
  EXPECT_EQ(snapshot[Operation::kRead].errors, 0u);
}

TEST(StatsTest, QuantilesAreNeverTooSmallAndAtMostAQuarterTooLarge) {
  auto counters = std::make_unique<StatsCounters>();
  for (int i = 1; i <= 1000; ++i) counters->Record({Operation::kRead, {0, 1}}, true, microseconds(i));
  const OperationStats stats = counters->Snapshot()[Operation::kRead];
  for (const int permille : {1, 10, 500, 900, 990, 999}) {
    SCOPED_TRACE(permille);
    const nanoseconds exact = microseconds(permille);
    EXPECT_GE(stats.Quantile(permille / 1000.0), exact);
    EXPECT_LE(stats.Quantile(permille / 1000.0), exact + exact / 4);
  }
  EXPECT_EQ(stats.Quantile(0), stats.Quantile(0.001));
  EXPECT_EQ(stats.max, microseconds(1000));
  EXPECT_EQ(stats.Quantile(1), stats.max) << "no more than the maximum";
}

TEST(StatsTest, WithoutRequestsAQuantileIsZero) { EXPECT_EQ(OperationStats().Quantile(0.5), nanoseconds(0)); }

TEST(StatsTest, WhatTookVeryLongHasTheMaximumAsItsQuantile) {
  auto counters = std::make_unique<StatsCounters>();
  counters->Record({Operation::kFlush}, true, std::chrono::minutes(5));
  counters->Record({Operation::kFlush}, true, std::chrono::minutes(3));
  const OperationStats stats = counters->Snapshot()[Operation::kFlush];
  EXPECT_EQ(stats.Quantile(0.5), std::chrono::minutes(5));
  EXPECT_EQ(stats.max, std::chrono::minutes(5));
}

TEST(StatsTest, AQuantileOfMoreThanAMinuteIsTheMaximum) {
  for (const auto& [latency, quantile] : std::vector<std::pair<nanoseconds, nanoseconds>>{
           {std::chrono::seconds(59), std::chrono::milliseconds(60130)}, {std::chrono::seconds(61), std::chrono::minutes(5)}}) {
    auto counters = std::make_unique<StatsCounters>();
    counters->Record({Operation::kFlush}, true, latency);
    counters->Record({Operation::kFlush}, true, std::chrono::minutes(5));
    EXPECT_NEAR(counters->Snapshot()[Operation::kFlush].Quantile(0.5).count(), quantile.count(), 1e9);
  }
}

TEST(StatsTest, ARequestIsCountedWhenItIsDone) {
  using Stack = Stats<Steer<Full>>;
  auto state = std::make_unique<Stack::State>();
  uint64_t during = 99;
  const Steering steering = [&](const Request&, absl::FunctionRef<absl::Status()> next) {
    during = state->hook.Snapshot()[Operation::kFlush].count;
    return next();
  };
  ASSERT_TRUE(Stack::Open({.below = {.steering = &steering}}, *state).ok());
  EXPECT_TRUE(Stack::Flush(*state).ok());
  EXPECT_EQ(during, 0u);
  EXPECT_EQ(state->hook.Snapshot()[Operation::kFlush].count, 1u);
}

TEST(StatsTest, TheLatencyIsThatOfTheDeviceBelow) {
  using Stack = Stats<Delay<Full>>;
  auto state = std::make_unique<Stack::State>();
  ASSERT_TRUE(Stack::Open({.below = {.flush = 20000, .below = {.size = 4096}}}, *state).ok());
  EXPECT_TRUE(Stack::Flush(*state).ok());
  const OperationStats stats = state->hook.Snapshot()[Operation::kFlush];
  EXPECT_GE(stats.max, std::chrono::milliseconds(20));
  EXPECT_EQ(stats.Quantile(0.5), stats.max);
}

TEST(StatsTest, NoCountIsLostAmongThreads) {
  constexpr uint64_t kEach = 20000;
  auto counters = std::make_unique<StatsCounters>();
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < kEach; ++i)
        counters->Record({Operation::kWrite, {0, 3}}, i % 4 != 0, nanoseconds(t * kEach + i));
    });
  }
  // Beside running requests.
  uint64_t before = 0;
  for (int i = 0; i < 10; ++i) {
    const uint64_t count = counters->Snapshot()[Operation::kWrite].count;
    EXPECT_GE(count, before);
    before = count;
  }
  for (std::thread& thread : threads) thread.join();
  const OperationStats stats = counters->Snapshot()[Operation::kWrite];
  EXPECT_EQ(stats.count, 4 * kEach);
  EXPECT_EQ(stats.errors, kEach);
  EXPECT_EQ(stats.bytes, 3 * 3 * kEach);
  EXPECT_EQ(stats.max, nanoseconds(4 * kEach - 1));
}

TEST(StatsTest, TheTableIsForPeople) {
  StatsSnapshot snapshot;
  OperationStats& read = snapshot.operations[static_cast<size_t>(Operation::kRead)];
  read = {.count = 4000, .bytes = 16384000, .max = microseconds(310)};
  read.latencies[LatencyBuckets::Of(1200)] = 3900;
  read.latencies[LatencyBuckets::Of(7000)] = 99;
  read.latencies[LatencyBuckets::Of(310000)] = 1;
  OperationStats& flush = snapshot.operations[static_cast<size_t>(Operation::kFlush)];
  flush = {.count = 1, .errors = 1, .max = nanoseconds(999)};
  flush.latencies[LatencyBuckets::Of(999)] = 1;
  OperationStats& write_through = snapshot.operations[static_cast<size_t>(Operation::kWriteThrough)];
  write_through = {.count = UINT32_MAX, .bytes = UINT64_MAX, .max = std::chrono::seconds(100)};
  write_through.latencies.back() = UINT32_MAX;
  EXPECT_EQ(snapshot.ToString(),
            "operation           count       bytes   errors       p50       p99       max\n"
            "read                 4000      16 MiB        0    1.3 us    7.2 us    310 us\n"
            "flush                   1         0 B        1    999 ns    999 ns    999 ns\n"
            "write-through  4294967295      16 EiB        0     100 s     100 s     100 s\n");
}

TEST(StatsTest, EveryErrorBelowSurfaces) {
  const auto configure = [](Script& script) { return Stack::Config{.below = {.size = 4096, .script = &script}}; };
  std::array<std::byte, 16> bytes{};
  EXPECT_EQ(FailNth<Stack>(configure, {7, 16}, [&](auto& state) { return Stack::Write(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Read(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Flush(state); }), 1);
}

}  // namespace
}  // namespace buse::testing
