// SPDX-License-Identifier: Apache-2.0
//
// Serialize: one call at a time arrives, whatever it is, and unchanged.

#include "layers/serialize.h"

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "gtest/gtest.h"
#include "layers/contract.h"
#include "layers/observer.h"
#include "tests/every_operation.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"
#include "tests/meeting.h"
#include "tests/steer.h"

template struct buse::Serialize<buse::testing::Full>;

namespace buse::testing {
namespace {

using Serial = BasicFull<1, Concurrency::kSerial>;
using Disjoint = BasicFull<1, Concurrency::kDisjoint>;

constexpr Capabilities kWithoutView = {true, true, true, true, true, true, false, false, true};

static_assert(kCapabilities<Serialize<Full>> == kEverythingObserved);
static_assert(kCapabilities<Serialize<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Serialize<Bare>> == kNothing);
static_assert(kCapabilities<Serialize<Serial>> == kWithoutView, "what is lent is used without the lock");
static_assert(kCapabilities<Serialize<Disjoint>> == kWithoutView);
static_assert(Serialize<Full512>::kBlockSize == 512);
static_assert(Serialize<Serial>::kConcurrency == Concurrency::kParallel);
static_assert(Serialize<Disjoint>::kConcurrency == Concurrency::kParallel);
static_assert(Serialize<Full>::kConcurrency == Concurrency::kParallel);

TEST(SerializeTest, EveryOperationArrivesBelowUnchanged) {
  using Stack = Serialize<Full>;
  Script script;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = 4096, .script = &script}}, state).ok());
  CallEveryOperation<Stack>(state);
  EXPECT_EQ(script.calls, kEveryCall);
}

TEST(SerializeTest, NoTwoCallsMeetBelow) {
  using Stack = Serialize<Attend<Serial>>;
  using State = Stack::State;
  const std::vector<std::function<void(State&)>> calls = {
      [](State& state) {
        std::array<std::byte, 16> bytes;
        EXPECT_TRUE(Stack::Read(state, 0, bytes).ok());
      },
      [](State& state) { EXPECT_TRUE(Stack::Write(state, 16, std::array<std::byte, 16>{}).ok()); },
      [](State& state) { EXPECT_TRUE(Stack::WriteThrough(state, 32, std::array<std::byte, 16>{}).ok()); },
      [](State& state) { EXPECT_TRUE(Stack::Flush(state).ok()); },
      [](State& state) {
        EXPECT_TRUE(Stack::Trim(state, {48, 16}).ok());
      },
      [](State& state) {
        EXPECT_TRUE(Stack::WriteZeroes(state, {64, 16}).ok());
      },
      [](State& state) {
        EXPECT_TRUE(Stack::Extents(state, {80, 16}, [](const Extent&) { return true; }).ok());
      },
      [](State& state) {
        EXPECT_TRUE(Stack::Prefetch(state, {96, 16}).ok());
      },
      [](State& state) { EXPECT_TRUE(Stack::Resize(state, 65536).ok()); },
  };
  for (size_t i = 0; i < calls.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_FALSE(MeetBelow<Stack>(kAWhile, calls[i], calls[0]));
  }
}

TEST(SerializeTest, AViewMeetsNothingBelowEither) {
  using Stack = Serialize<Attend<Full>>;
  const auto view = [](Stack::State& state) {
    Gather gather;
    EXPECT_TRUE(Stack::View(state, {0, 16}, gather).ok());
  };
  const auto read = [](Stack::State& state) {
    std::array<std::byte, 16> bytes;
    EXPECT_TRUE(Stack::Read(state, 0, bytes).ok());
  };
  EXPECT_FALSE(MeetBelow<Stack>(kAWhile, view, read));
}

// By a thread that is in a call: a lock would make it wait for itself.
TEST(SerializeTest, SizeTakesNoLock) {
  using Stack = Serialize<Steer<Serial>>;
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

TEST(SerializeTest, ManyThreadsAreOneToTheDeviceBelow) {
  using Stack = Serialize<Contract<Serial>>;  // which aborts when two calls meet
  auto state = std::make_unique<Stack::State>();
  ASSERT_TRUE(Stack::Open({.below = {.below = {.size = 4096}}}, *state).ok());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::array<std::byte, 64> bytes{};
      for (int i = 0; i < 300; ++i) {
        EXPECT_TRUE(Stack::Write(*state, 16 * t, bytes).ok());
        EXPECT_TRUE(Stack::Read(*state, 0, bytes).ok());
        EXPECT_TRUE(Stack::Trim(*state, {8, 100}).ok());
        EXPECT_TRUE(Stack::Flush(*state).ok());
        if (t == 0) {
          EXPECT_TRUE(Stack::Resize(*state, 4096 + i).ok());
        }
        EXPECT_GE(Stack::Size(*state), 4096u);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Stack::Size(*state), 4096u + 299);
}

TEST(SerializeTest, AFailedResizeLeavesTheSize) {
  using Stack = Serialize<Serial>;
  Script script;
  script.fail_at = 0;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = 4096, .script = &script}}, state).ok());
  EXPECT_EQ(Stack::Resize(state, 8192), script.error);
  EXPECT_EQ(Stack::Size(state), 4096u);
}

TEST(SerializeTest, EveryErrorBelowSurfacesAndLeavesTheLockFree) {
  using Stack = Serialize<Full>;
  const auto configure = [](Script& script) { return Stack::Config{.below = {.size = 4096, .script = &script}}; };
  std::array<std::byte, 16> bytes{};
  EXPECT_EQ(FailNth<Stack>(configure, {7, 16}, [&](auto& state) { return Stack::Write(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {7, 16}, [&](auto& state) { return Stack::WriteThrough(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {7, 16}, [&](auto& state) { return Stack::Trim(state, {7, 16}); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {7, 16}, [&](auto& state) { return Stack::WriteZeroes(state, {7, 16}); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Read(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Flush(state); }), 1);
}

}  // namespace
}  // namespace buse::testing
