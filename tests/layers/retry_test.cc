// SPDX-License-Identifier: Apache-2.0
//
// Retry: what is repeated, how often and when; and what is not, a flush above all.

#include "layers/retry.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "gtest/gtest.h"
#include "layers/fault_plan.h"
#include "layers/faulty.h"
#include "layers/observer.h"
#include "layers/operation.h"
#include "tests/every_operation.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"

template struct buse::Retry<buse::testing::Full>;

namespace buse::testing {
namespace {

using std::chrono::milliseconds;

static_assert(kCapabilities<Retry<Full>> == kEverythingObserved);
static_assert(kCapabilities<Retry<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Retry<Bare>> == kNothing);
static_assert(Retry<Full512>::kBlockSize == 512);
static_assert(Retry<BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);
static_assert(Retry<Full>::PauseAfter(milliseconds(29999)) == milliseconds(59998));
static_assert(Retry<Full>::PauseAfter(milliseconds(30001)) == milliseconds(60000), "up to a minute");
static_assert(Retry<Full>::PauseAfter(milliseconds(60000)) == milliseconds(60000));

// Does what is asked for, and says of the first `failures` calls that they failed: the most that a device may have done.
struct FailingHook {
  template <class BelowConfig>
  struct Config {
    int failures = 0;
    absl::StatusCode code = absl::StatusCode::kInternal;
    BelowConfig below;
  };
  struct State {
    int failures = 0;
    absl::StatusCode code = absl::StatusCode::kOk;
    std::vector<std::chrono::steady_clock::time_point> calls;
  };
  template <class Config>
  static constexpr Description<Config> Describe() {
    return {"failing", "fails at first", Family::kObserver};
  }
  template <class Config>
  static absl::Status Open(const Config& config, State& hook) {
    hook.failures = config.failures;
    hook.code = config.code;
    return absl::OkStatus();
  }
  template <class Next>
  static absl::Status Around(State& hook, const Request&, Next&& next) {
    hook.calls.push_back(std::chrono::steady_clock::now());
    absl::Status status = next();
    const auto n = static_cast<int>(hook.calls.size());
    return n <= hook.failures ? absl::Status(hook.code, "failure " + std::to_string(n)) : status;
  }
};
template <Device B>
using Failing = Observer<FailingHook, B>;

using Stack = Retry<Failing<Full>>;
using Operate = std::function<absl::Status(Stack::State&)>;

Stack::Config FailingAtFirst(int failures, absl::StatusCode code = absl::StatusCode::kInternal) {
  return {.retries = 3, .delay = 0, .below = {.failures = failures, .code = code, .below = {.size = 4096}}};
}

struct Named {
  const char* name;
  Operate operate;
};
const std::vector<Named> kRepeated = {
    {"read",
     [](Stack::State& state) {
       std::array<std::byte, 16> bytes;
       return Stack::Read(state, 1, bytes);
     }},
    {"write", [](Stack::State& state) { return Stack::Write(state, 1, std::array<std::byte, 16>{}); }},
    {"trim",
     [](Stack::State& state) {
       return Stack::Trim(state, {1, 16});
     }},
    {"write-zeroes",
     [](Stack::State& state) {
       return Stack::WriteZeroes(state, {1, 16});
     }},
    {"view",
     [](Stack::State& state) {
       auto gather = std::make_unique<Gather>();
       return Stack::View(state, {1, 16}, *gather);
     }},
    {"resize", [](Stack::State& state) { return Stack::Resize(state, 8192); }},
};
const std::vector<Named> kNotRepeated = {
    {"flush", [](Stack::State& state) { return Stack::Flush(state); }},
    {"write-through", [](Stack::State& state) { return Stack::WriteThrough(state, 1, std::array<std::byte, 16>{}); }},
    {"prefetch",
     [](Stack::State& state) {
       return Stack::Prefetch(state, {1, 16});
     }},
};

TEST(RetryTest, EveryOperationArrivesBelowUnchanged) {
  using Stack = Retry<Full>;
  Script script;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = 4096, .script = &script}}, state).ok());
  CallEveryOperation<Stack>(state);
  EXPECT_EQ(script.calls, kEveryCall);
}

TEST(RetryTest, WhatSucceedsInTimeSucceeds) {
  for (const auto code : {absl::StatusCode::kInternal, absl::StatusCode::kUnavailable}) {
    for (const auto& [name, operate] : kRepeated) {
      SCOPED_TRACE(name);
      Stack::State state;
      ASSERT_TRUE(Stack::Open(FailingAtFirst(3, code), state).ok());
      EXPECT_TRUE(operate(state).ok());
      EXPECT_EQ(state.below.hook.calls.size(), 4u);
    }
  }
}

TEST(RetryTest, TheLastErrorComesBackWhenAllAttemptsFailed) {
  for (const auto& [name, operate] : kRepeated) {
    SCOPED_TRACE(name);
    Stack::State state;
    ASSERT_TRUE(Stack::Open(FailingAtFirst(4), state).ok());
    EXPECT_EQ(operate(state), absl::InternalError("failure 4"));
    EXPECT_EQ(state.below.hook.calls.size(), 4u);
    EXPECT_TRUE(operate(state).ok()) << "a later call begins anew";
  }
}

TEST(RetryTest, NoOtherErrorIsRepeated) {
  for (int code = 1; code <= 16; ++code) {
    const auto error = static_cast<absl::StatusCode>(code);
    if (error == absl::StatusCode::kInternal || error == absl::StatusCode::kUnavailable) continue;
    for (const auto& [name, operate] : kRepeated) {
      SCOPED_TRACE(absl::StatusCodeToString(error) + " of " + name);
      Stack::State state;
      ASSERT_TRUE(Stack::Open(FailingAtFirst(1, error), state).ok());
      EXPECT_EQ(operate(state).code(), error);
      EXPECT_EQ(state.below.hook.calls.size(), 1u);
    }
  }
}

TEST(RetryTest, AFlushIsNotRepeatedNorWhatMayContainOne) {
  for (const auto& [name, operate] : kNotRepeated) {
    SCOPED_TRACE(name);
    Stack::State state;
    ASSERT_TRUE(Stack::Open(FailingAtFirst(1), state).ok());
    EXPECT_EQ(operate(state), absl::InternalError("failure 1"));
    EXPECT_EQ(state.below.hook.calls.size(), 1u);
    EXPECT_TRUE(operate(state).ok()) << "the next one is the caller's decision";
  }
}

TEST(RetryTest, NoneMeansOneAttempt) {
  Stack::State state;
  Stack::Config config = FailingAtFirst(1);
  config.retries = 0;
  ASSERT_TRUE(Stack::Open(config, state).ok());
  EXPECT_EQ(Stack::Trim(state, {0, 16}), absl::InternalError("failure 1"));
}

TEST(RetryTest, ThePauseDoubles) {
  Stack::State state;
  Stack::Config config = FailingAtFirst(3);
  config.delay = 20;
  ASSERT_TRUE(Stack::Open(config, state).ok());
  ASSERT_TRUE(Stack::Trim(state, {0, 16}).ok());
  const auto& calls = state.below.hook.calls;
  EXPECT_GE(calls[1] - calls[0], milliseconds(20));
  EXPECT_GE(calls[2] - calls[1], milliseconds(40));
  EXPECT_GE(calls[3] - calls[2], milliseconds(80));
}

TEST(RetryTest, AViewForgetsThePiecesOfFailedAttempts) {
  Stack::State state;
  ASSERT_TRUE(Stack::Open(FailingAtFirst(2), state).ok());
  Gather gather;
  gather.AppendZeroes(5);
  EXPECT_TRUE(Stack::View(state, {0, 16}, gather).ok());
  ASSERT_EQ(state.below.hook.calls.size(), 3u) << "each of which appended";
  EXPECT_EQ(gather.bytes(), 5u + 16);
  EXPECT_EQ(gather.pieces().size(), 2u);
}

TEST(RetryTest, AViewKeepsWhatOverflowedBeforeIt) {
  Stack::State state;
  ASSERT_TRUE(Stack::Open(FailingAtFirst(1), state).ok());
  Gather gather;
  for (size_t i = 0; i <= Gather::kMaxPieces; ++i) gather.AppendZeroes(1);
  ASSERT_TRUE(gather.overflowed());
  EXPECT_TRUE(Stack::View(state, {0, 16}, gather).ok());
  ASSERT_EQ(state.below.hook.calls.size(), 2u);
  EXPECT_TRUE(gather.overflowed()) << "the caller learns that pieces are missing";
  EXPECT_EQ(gather.pieces().size(), Gather::kMaxPieces);
}

TEST(RetryTest, ExtentsAreRepeatedUntilOneIsEmitted) {
  using Stack = Retry<Full>;
  Script script;
  script.error = absl::InternalError("injected failure");
  script.fail_at = 0;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.delay = 0, .below = {.size = 4096, .script = &script}}, state).ok());
  std::vector<Extent> extents;
  EXPECT_TRUE(Stack::Extents(state, {0, 16}, [&](const Extent& extent) {
                extents.push_back(extent);
                return true;
              }).ok());
  EXPECT_EQ(script.calls.size(), 2u);
  EXPECT_EQ(extents, (std::vector<Extent>{{{0, 16}, Extent::Kind::kHole}}));
}

TEST(RetryTest, ExtentsThatEmittedAreNotRepeated) {
  Stack::State state;
  ASSERT_TRUE(Stack::Open(FailingAtFirst(1), state).ok());
  int emitted = 0;
  EXPECT_EQ(Stack::Extents(state, {0, 16}, [&](const Extent&) { return ++emitted > 0; }), absl::InternalError("failure 1"));
  EXPECT_EQ(emitted, 1);
}

TEST(RetryTest, OpenIsNotRepeatedAndRefusesWhatTakesTooLong) {
  Stack::State state;
  Stack::Config config = FailingAtFirst(0);
  config.retries = 101;
  EXPECT_EQ(Stack::Open(config, state),
            absl::InvalidArgumentError("retry: 101 repetitions after 0 ms are too many or too late: the most is 100, after "
                                       "60000 ms"));
  config.retries = 100;
  config.delay = 60001;
  Stack::State other;
  EXPECT_EQ(Stack::Open(config, other).code(), absl::StatusCode::kInvalidArgument);
  config.delay = 60000;
  Stack::State last;
  EXPECT_TRUE(Stack::Open(config, last).ok());
}

// Cannot be opened for the moment.
struct Shy : Full {
  static inline int opens = 0;
  static absl::Status Open(const Config&, State&) {
    ++opens;
    return absl::UnavailableError("not now");
  }
};

TEST(RetryTest, OpenIsNotRepeated) {
  Retry<Shy>::State state;
  EXPECT_EQ(Retry<Shy>::Open({.delay = 0}, state), absl::UnavailableError("not now"));
  EXPECT_EQ(Shy::opens, 1);
}

TEST(RetryTest, ARequestThatPausesHoldsUpNoOther) {
  using Stack = Retry<Faulty<Full>>;
  FaultPlan plan;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.retries = 1, .delay = 400, .below = {.plan = &plan}}, state).ok());
  plan.Add({.operation = Operation::kTrim, .nth = 1});
  std::atomic<bool> trimmed = false;
  std::thread trimmer([&] {
    EXPECT_TRUE(Stack::Trim(state, {0, 16}).ok());
    trimmed = true;
  });
  while (plan.strikes() == 0) std::this_thread::yield();
  int reads = 0;
  std::array<std::byte, 16> bytes;
  for (; !trimmed; ++reads) EXPECT_TRUE(Stack::Read(state, 16, bytes).ok());
  trimmer.join();
  EXPECT_GT(reads, 10);
}

TEST(RetryTest, ThreadsEachRepeatTheirOwn) {
  using Stack = Retry<Faulty<Full>>;
  FaultPlan plan;
  Stack::State state;
  ASSERT_TRUE(
      Stack::Open({.retries = 100, .delay = 0, .below = {.faults = "error,in=3", .plan = &plan, .below = {.size = 4096}}},
                  state)
          .ok());
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        std::array<std::byte, 16> bytes;
        bytes.fill(static_cast<std::byte>(i));
        EXPECT_TRUE(Stack::Write(state, 1024 * t, bytes).ok());
        std::array<std::byte, 16> out;
        EXPECT_TRUE(Stack::Read(state, 1024 * t, out).ok());
        EXPECT_EQ(out, bytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(plan.strikes(), 400u);
}

TEST(RetryTest, ErrorsThatAreNotRepeatedSurface) {
  using Stack = Retry<Full>;
  const auto configure = [](Script& script) { return Stack::Config{.below = {.size = 4096, .script = &script}}; };
  std::array<std::byte, 16> bytes{};
  EXPECT_EQ(FailNth<Stack>(configure, {7, 16}, [&](auto& state) { return Stack::Write(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {7, 16}, [&](auto& state) { return Stack::Trim(state, {7, 16}); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Read(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Flush(state); }), 1);
}

}  // namespace
}  // namespace buse::testing
