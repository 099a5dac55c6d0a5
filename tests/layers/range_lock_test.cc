// SPDX-License-Identifier: Apache-2.0
//
// RangeLock: what overlaps arrives one after another, what does not arrives together, and all of it unchanged.

#include "layers/range_lock.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "gtest/gtest.h"
#include "layers/contract.h"
#include "layers/observer.h"
#include "layers/operation.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"
#include "tests/meeting.h"
#include "tests/steer.h"

namespace buse::testing {
namespace {

using Disjoint = BasicFull<16, Concurrency::kDisjoint>;

}  // namespace
}  // namespace buse::testing

template struct buse::RangeLock<buse::testing::Full>;
template struct buse::RangeLock<buse::testing::Disjoint>;

namespace buse::testing {
namespace {

using DisjointWriter = BasicWriter<16, Concurrency::kDisjoint>;
using DisjointBare = BasicBare<16, Concurrency::kDisjoint>;

constexpr Capabilities kWithoutView = {true, true, true, true, true, true, false, false, true};

static_assert(kCapabilities<RangeLock<Disjoint>> == kWithoutView, "what is lent is used without the lock");
static_assert(kCapabilities<RangeLock<DisjointWriter>> == Capabilities{.write = true});
static_assert(kCapabilities<RangeLock<DisjointBare>> == kNothing);
static_assert(kCapabilities<RangeLock<Full>> == kEverythingObserved);
static_assert(kCapabilities<RangeLock<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<RangeLock<Bare>> == kNothing);
static_assert(RangeLock<Disjoint>::kBlockSize == 16);
static_assert(RangeLock<Disjoint>::kConcurrency == Concurrency::kParallel);
static_assert(RangeLock<Full>::kConcurrency == Concurrency::kParallel);
static_assert(sizeof(RangeLock<Full>::State) < sizeof(RangeLock<Disjoint>::State), "over kParallel there is no lock");

template <class Stack>
void ExpectEveryOperationArrives() {
  Script script;
  typename Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = 4096, .script = &script}}, state).ok());
  std::array<std::byte, 16> bytes{};
  EXPECT_EQ(Stack::Size(state), 4096u);
  EXPECT_TRUE(Stack::Read(state, 16, bytes).ok());
  EXPECT_TRUE(Stack::Write(state, 32, bytes).ok());
  EXPECT_TRUE(Stack::WriteThrough(state, 48, bytes).ok());
  EXPECT_TRUE(Stack::Flush(state).ok());
  EXPECT_TRUE(Stack::Trim(state, {64, 16}).ok());
  EXPECT_TRUE(Stack::WriteZeroes(state, {80, 32}).ok());
  EXPECT_TRUE(Stack::Extents(state, {96, 48}, [](const Extent&) { return true; }).ok());
  EXPECT_TRUE(Stack::Prefetch(state, {112, 64}).ok());
  EXPECT_TRUE(Stack::Resize(state, 8192).ok());
  EXPECT_EQ(Stack::Size(state), 8192u);
  EXPECT_EQ(script.calls, (std::vector<Call>{{"Read", {16, 16}},
                                             {"Write", {32, 16}},
                                             {"WriteThrough", {48, 16}},
                                             {"Flush", {}},
                                             {"Trim", {64, 16}},
                                             {"WriteZeroes", {80, 32}},
                                             {"Extents", {96, 48}},
                                             {"Prefetch", {112, 64}},
                                             {"Resize", {0, 8192}}}));
}

TEST(RangeLockTest, EveryOperationArrivesBelowUnchanged) {
  ExpectEveryOperationArrives<RangeLock<Disjoint>>();
  ExpectEveryOperationArrives<RangeLock<Full>>();
}

TEST(RangeLockTest, AViewOverAParallelDeviceArrives) {
  using Stack = RangeLock<Full>;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({}, state).ok());
  Gather gather;
  EXPECT_TRUE(Stack::View(state, {12, 13}, gather).ok());
  EXPECT_EQ(gather.bytes(), 13u);
}

using Stack = RangeLock<Attend<Disjoint>>;
using Operate = std::function<void(Stack::State&)>;

// Every operation that has a range, on [offset, offset + 32).
std::vector<Operate> OperationsAt(uint64_t offset) {
  return {
      [=](Stack::State& state) {
        std::array<std::byte, 32> bytes;
        EXPECT_TRUE(Stack::Read(state, offset, bytes).ok());
      },
      [=](Stack::State& state) { EXPECT_TRUE(Stack::Write(state, offset, std::array<std::byte, 32>{}).ok()); },
      [=](Stack::State& state) { EXPECT_TRUE(Stack::WriteThrough(state, offset, std::array<std::byte, 32>{}).ok()); },
      [=](Stack::State& state) {
        EXPECT_TRUE(Stack::Trim(state, {offset, 32}).ok());
      },
      [=](Stack::State& state) {
        EXPECT_TRUE(Stack::WriteZeroes(state, {offset, 32}).ok());
      },
      [=](Stack::State& state) {
        EXPECT_TRUE(Stack::Extents(state, {offset, 32}, [](const Extent&) { return true; }).ok());
      },
      [=](Stack::State& state) {
        EXPECT_TRUE(Stack::Prefetch(state, {offset, 32}).ok());
      },
  };
}
const Operate kFlush = [](Stack::State& state) { EXPECT_TRUE(Stack::Flush(state).ok()); };
const Operate kResize = [](Stack::State& state) { EXPECT_TRUE(Stack::Resize(state, 65536).ok()); };

bool Meet(const Operate& first, const Operate& second, std::chrono::milliseconds patience) {
  return MeetBelow<Stack>(patience, first, second);
}

TEST(RangeLockTest, WhatOverlapsDoesNotMeetBelow) {
  const Operate read = OperationsAt(16)[0];
  for (const Operate& operate : OperationsAt(32)) EXPECT_FALSE(Meet(read, operate, kAWhile));
}

// One call is below, and eight that overlap are started one after another. Returns the order in which they arrive below.
std::vector<uint64_t> OrderOfEight() {
  using Stack = RangeLock<Steer<Disjoint>>;
  Barrier barrier;
  std::mutex mutex;
  std::vector<uint64_t> order;
  const Steering steering = [&](const Request& request, absl::FunctionRef<absl::Status()> next) {
    if (request.operation == Operation::kTrim) barrier.Wait();
    if (request.operation == Operation::kRead) {
      std::lock_guard lock(mutex);
      order.push_back(request.range.length / 16);
    }
    return next();
  };
  auto state = std::make_unique<Stack::State>();
  EXPECT_TRUE(Stack::Open({.below = {.steering = &steering, .below = {.size = 4096}}}, *state).ok());
  std::vector<std::thread> threads;
  threads.emplace_back([&] { EXPECT_TRUE(Stack::Trim(*state, {0, 4096}).ok()); });
  barrier.AwaitArrival();
  for (uint64_t blocks = 8; blocks > 0; --blocks) {
    threads.emplace_back([&state, blocks] {
      std::vector<std::byte> bytes(16 * blocks);
      EXPECT_TRUE(Stack::Read(*state, 0, bytes).ok());
    });
    std::this_thread::sleep_for(kAWhile);  // until it waits, as nothing tells
  }
  barrier.Open();
  for (std::thread& thread : threads) thread.join();
  return order;
}

TEST(RangeLockTest, WhatOverlapsIsServedInTheOrderItCame) {
  const std::vector<uint64_t> expected = {8, 7, 6, 5, 4, 3, 2, 1};
  std::vector<uint64_t> order;
  // On a busy machine one may come late, but not always.
  for (int i = 0; i < 10 && order != expected; ++i) order = OrderOfEight();
  EXPECT_EQ(order, expected);
}

TEST(RangeLockTest, WhatDoesNotOverlapMeetsBelow) {
  const Operate write = OperationsAt(0)[1];
  for (const Operate& operate : OperationsAt(32)) EXPECT_TRUE(Meet(write, operate, kUntilItComes));
}

TEST(RangeLockTest, AFlushRunsBesideAnythingButAResize) {
  for (const Operate& operate : OperationsAt(0)) EXPECT_TRUE(Meet(kFlush, operate, kUntilItComes));
  EXPECT_TRUE(Meet(kFlush, kFlush, kUntilItComes));
  EXPECT_FALSE(Meet(kFlush, kResize, kAWhile));
}

TEST(RangeLockTest, AResizeRunsAlone) {
  for (const Operate& operate : OperationsAt(4096)) EXPECT_FALSE(Meet(kResize, operate, kAWhile));
  EXPECT_FALSE(Meet(kResize, kResize, kAWhile));
}

TEST(RangeLockTest, OverAParallelDeviceNothingWaits) {
  using Stack = RangeLock<Attend<Full>>;
  const auto read = [](Stack::State& state) {
    std::array<std::byte, 32> bytes;
    EXPECT_TRUE(Stack::Read(state, 0, bytes).ok());
  };
  EXPECT_TRUE(MeetBelow<Stack>(kUntilItComes, read, read));
}

// By a thread that is in a call: a lock would make it wait for itself.
TEST(RangeLockTest, SizeTakesNoLock) {
  using Stack = RangeLock<Steer<Disjoint>>;
  Stack::State state;
  uint64_t size = 0;
  const Steering steering = [&](const Request&, absl::FunctionRef<absl::Status()> next) {
    size = Stack::Size(state);
    return next();
  };
  ASSERT_TRUE(Stack::Open({.below = {.steering = &steering, .below = {.size = 4096}}}, state).ok());
  EXPECT_TRUE(Stack::Resize(state, 8192).ok());
  EXPECT_EQ(size, 4096u);
  EXPECT_EQ(Stack::Size(state), 8192u);
}

TEST(RangeLockTest, ManyThreadsKeepToWhatTheDeviceBelowBears) {
  using Stack = RangeLock<Contract<Disjoint>>;  // which aborts when two calls meet that must not
  auto state = std::make_unique<Stack::State>();
  ASSERT_TRUE(Stack::Open({.below = {.below = {.size = 4096}}}, *state).ok());
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::array<std::byte, 64> bytes{};
      for (uint64_t i = 0; i < 300; ++i) {
        EXPECT_TRUE(Stack::Write(*state, (i * 3 + t) % 8 * 16, bytes).ok());
        EXPECT_TRUE(Stack::Read(*state, (i * 5 + t) % 8 * 16, bytes).ok());
        EXPECT_TRUE(Stack::Trim(*state, {16 * t, 128}).ok());
        EXPECT_TRUE(Stack::Flush(*state).ok());
        if (t == 0) {
          EXPECT_TRUE(Stack::Resize(*state, 4096 + 16 * i).ok());
        }
        EXPECT_GE(Stack::Size(*state), 4096u);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Stack::Size(*state), 4096u + 16 * 299);
}

TEST(RangeLockTest, EveryErrorBelowSurfacesAndLeavesTheRangeFree) {
  using Stack = RangeLock<Disjoint>;
  const auto configure = [](Script& script) { return Stack::Config{.below = {.size = 4096, .script = &script}}; };
  std::array<std::byte, 16> bytes{};
  EXPECT_EQ(FailNth<Stack>(configure, {16, 16}, [&](auto& state) { return Stack::Write(state, 16, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {16, 16}, [&](auto& state) { return Stack::WriteThrough(state, 16, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {16, 16}, [&](auto& state) { return Stack::Trim(state, {16, 16}); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {16, 16}, [&](auto& state) { return Stack::WriteZeroes(state, {16, 16}); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Read(state, 16, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Flush(state); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {4096, 4096}, [&](auto& state) { return Stack::Resize(state, 8192); }), 1);
}

}  // namespace
}  // namespace buse::testing
