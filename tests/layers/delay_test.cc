// SPDX-License-Identifier: Apache-2.0
//
// Delay: who waits for what, and that no one else does.

#include "layers/delay.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "gtest/gtest.h"
#include "layers/observer.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"
#include "tests/steer.h"

template struct buse::Observer<buse::DelayHook, buse::testing::Full>;

namespace buse::testing {
namespace {

using std::chrono::microseconds;
using std::chrono::steady_clock;

static_assert(kCapabilities<Delay<Full>> == kEverythingObserved);
static_assert(kCapabilities<Delay<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Delay<Bare>> == kNothing);
static_assert(Delay<Full512>::kBlockSize == 512);
static_assert(Delay<BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);

using Stack = Delay<Full>;
using Operate = std::function<absl::Status(Stack::State&)>;

struct Expected {
  const char* name;
  Operate operate;
  bool read, write, flush, trim;  // what it waits for
};
std::array<std::byte, 16> bytes;
Gather gather;
const std::vector<Expected> kTable = {
    {"read", [](auto& state) { return Stack::Read(state, 1, bytes); }, 1, 0, 0, 0},
    {"view",
     [](auto& state) {
       return Stack::View(state, {1, 16}, gather);
     },
     1, 0, 0, 0},
    {"write", [](auto& state) { return Stack::Write(state, 2, bytes); }, 0, 1, 0, 0},
    {"flush", [](auto& state) { return Stack::Flush(state); }, 0, 0, 1, 0},
    {"write-through", [](auto& state) { return Stack::WriteThrough(state, 3, bytes); }, 0, 1, 1, 0},
    {"trim",
     [](auto& state) {
       return Stack::Trim(state, {4, 5});
     },
     0, 0, 0, 1},
    {"write-zeroes",
     [](auto& state) {
       return Stack::WriteZeroes(state, {4, 5});
     },
     0, 0, 0, 1},
    {"extents",
     [](auto& state) {
       return Stack::Extents(state, {8, 9}, [](const Extent&) { return true; });
     },
     0, 0, 0, 0},
    {"prefetch",
     [](auto& state) {
       return Stack::Prefetch(state, {10, 11});
     },
     0, 0, 0, 0},
    {"resize", [](auto& state) { return Stack::Resize(state, 4096); }, 0, 0, 0, 0},
};

steady_clock::duration TimeOf(const Operate& operate, Stack::State& state) {
  const auto start = steady_clock::now();
  EXPECT_TRUE(operate(state).ok());
  return steady_clock::now() - start;
}

TEST(DelayTest, EachWaitsForItsOwnAndArrives) {
  constexpr uint64_t kDelay = 20000;
  for (const Expected& expected : kTable) {
    for (int option = 0; option < 4; ++option) {
      SCOPED_TRACE(expected.name + std::string(" with option ") + std::to_string(option));
      Stack::Config config = {.below = {.size = 4096}};
      (option == 0 ? config.read : option == 1 ? config.write : option == 2 ? config.flush : config.trim) = kDelay;
      const bool waits = (std::array{expected.read, expected.write, expected.flush, expected.trim})[option];
      Stack::State state;
      ASSERT_TRUE(Stack::Open(config, state).ok());
      auto shortest = TimeOf(expected.operate, state);
      // What does not wait may have to on a busy machine, but not always.
      for (int i = 0; i < 20 && !waits; ++i) shortest = std::min(shortest, TimeOf(expected.operate, state));
      EXPECT_EQ(shortest >= microseconds(kDelay), waits);
      EXPECT_EQ(state.below.script->calls.size(), waits ? 1u : 21u);
    }
  }
}

TEST(DelayTest, TheWaitIsBeforeTheRequest) {
  using Stack = Delay<Steer<Full>>;
  steady_clock::time_point arrival;
  const Steering steering = [&](const Request&, absl::FunctionRef<absl::Status()> next) {
    arrival = steady_clock::now();
    return next();
  };
  Stack::State state;
  ASSERT_TRUE(
      Stack::Open({.read = 10000, .write = 10000, .flush = 10000, .trim = 10000, .below = {.steering = &steering}}, state)
          .ok());
  const std::vector<std::function<absl::Status()>> requests = {
      [&] { return Stack::Read(state, 0, bytes); },
      [&] { return Stack::Write(state, 0, bytes); },
      [&] { return Stack::Flush(state); },
      [&] {
        return Stack::Trim(state, {0, 16});
      },
  };
  for (const auto& request : requests) {
    const auto start = steady_clock::now();
    EXPECT_TRUE(request().ok());
    EXPECT_GE(arrival - start, microseconds(10000));
  }
}

TEST(DelayTest, AWriteThroughWaitsForBoth) {
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.write = 10000, .flush = 20000, .below = {.size = 4096}}, state).ok());
  EXPECT_GE(TimeOf(kTable[4].operate, state), microseconds(30000));
}

TEST(DelayTest, RequestsWaitBesideOneAnother) {
  constexpr int kThreads = 8;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.flush = 200000, .below = {.size = 4096}}, state).ok());
  const auto start = steady_clock::now();
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) threads.emplace_back([&] { EXPECT_TRUE(Stack::Flush(state).ok()); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_LT(steady_clock::now() - start, kThreads * microseconds(200000)) << "one after another would take longer";
}

TEST(DelayTest, MoreThanAnHourIsRefused) {
  const auto error =
      absl::InvalidArgumentError("delay: 3600000001 us is too long: the most is an hour, which is 3600000000 us");
  for (int option = 0; option < 4; ++option) {
    Stack::Config config;
    uint64_t& delay = option == 0 ? config.read : option == 1 ? config.write : option == 2 ? config.flush : config.trim;
    delay = 3600000001;
    Stack::State refused;
    EXPECT_EQ(Stack::Open(config, refused), error);
    delay = 3600000000;
    Stack::State accepted;
    EXPECT_TRUE(Stack::Open(config, accepted).ok());
  }
}

TEST(DelayTest, EveryErrorBelowSurfaces) {
  const auto configure = [](Script& script) { return Stack::Config{.below = {.size = 4096, .script = &script}}; };
  EXPECT_EQ(FailNth<Stack>(configure, {7, 16}, [&](auto& state) { return Stack::Write(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Read(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Flush(state); }), 1);
}

}  // namespace
}  // namespace buse::testing
