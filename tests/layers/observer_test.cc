// SPDX-License-Identifier: Apache-2.0
//
// Observer: the hook sees every operation once, decides whether it is done, and costs no bytes without a state.

#include "layers/observer.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "buse/description.h"
#include "buse/gather.h"
#include "gtest/gtest.h"
#include "layers/operation.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"

namespace buse::testing {
namespace {

struct EmptyHook {
  template <class BelowConfig>
  struct Config {
    BelowConfig below;
  };
  struct State {};
  template <class Config>
  static constexpr Description<Config> Describe() {
    return {"empty", "does nothing", Family::kObserver};
  }
  template <class Config>
  static absl::Status Open(const Config&, State&) {
    return absl::OkStatus();
  }
  template <class Next>
  static absl::Status Around(State&, const Request&, Next&& next) {
    return next();
  }
};

// Writes down what it sees, and refuses where it is told.
struct NotingHook {
  struct Seen {
    Operation operation;
    Range range;
    size_t in;
    friend bool operator==(const Seen&, const Seen&) = default;
  };
  template <class BelowConfig>
  struct Config {
    std::vector<Seen>* seen = nullptr;
    uint64_t refused = 0;  // the offset of requests that do not get below
    BelowConfig below;
  };
  struct State {
    std::vector<Seen>* seen = nullptr;
    uint64_t refused = 0;
  };
  template <class Config>
  static constexpr Description<Config, 1> Describe() {
    return {"noting",
            "writes down what it sees",
            Family::kObserver,
            {{{.field = &Config::refused, .name = "refused", .help = "the offset of requests that do not get below"}}}};
  }
  template <class Config>
  static absl::Status Open(const Config& config, State& hook) {
    if (config.seen == nullptr) return absl::InvalidArgumentError("noting: nowhere to write");
    hook.seen = config.seen;
    hook.refused = config.refused;
    return absl::OkStatus();
  }
  template <class Next>
  static absl::Status Around(State& hook, const Request& request, Next&& next) {
    hook.seen->push_back({request.operation, request.range, request.in.size()});
    if (hook.refused != 0 && request.range.offset == hook.refused) return absl::UnavailableError("refused");
    return next();
  }
};

// Is told of what is done.
struct ToldHook {
  struct Told {
    Operation operation;
    Range range;
    size_t in;
    absl::StatusCode code;
    friend bool operator==(const Told&, const Told&) = default;
  };
  template <class BelowConfig>
  struct Config {
    std::vector<Told>* told = nullptr;
    BelowConfig below;
  };
  struct State {
    std::vector<Told>* told = nullptr;
  };
  template <class Config>
  static constexpr Description<Config> Describe() {
    return {"told", "writes down what is done", Family::kObserver};
  }
  template <class Config>
  static absl::Status Open(const Config& config, State& hook) {
    hook.told = config.told;
    return absl::OkStatus();
  }
  static void Done(State& hook, const Request& request, const absl::Status& status, std::chrono::nanoseconds elapsed) {
    EXPECT_GE(elapsed.count(), 0);
    hook.told->push_back({request.operation, request.range, request.in.size(), status.code()});
  }
};

template <Device B>
using Empty = Observer<EmptyHook, B>;
template <Device B>
using Tells = Observer<ToldHook, B>;
template <Device B>
using Noting = Observer<NotingHook, B>;

}  // namespace
}  // namespace buse::testing

template struct buse::Observer<buse::testing::EmptyHook, buse::testing::Full>;
template struct buse::Observer<buse::testing::NotingHook, buse::testing::Full>;
template struct buse::Observer<buse::testing::ToldHook, buse::testing::Full>;

namespace buse::testing {
namespace {

static_assert(kCapabilities<Empty<Full>> == kEverythingObserved);
static_assert(kCapabilities<Tells<Full>> == kEverythingTold);
static_assert(kCapabilities<Empty<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Empty<Bare>> == kNothing);
static_assert(Empty<Full512>::kBlockSize == 512);
static_assert(Empty<BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);
static_assert(sizeof(Empty<Empty<Empty<Full>>>::State) == sizeof(Full::State),
              "hooks without state add no bytes, however many");
static_assert(Noting<Full>::Describe().options[0].name == std::string_view("refused"));

TEST(ObserverTest, TheHookSeesEveryOperationOnceAndItArrivesBelow) {
  using Stack = Noting<Full>;
  Script script;
  std::vector<NotingHook::Seen> seen;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.seen = &seen, .below = {.size = 4096, .script = &script}}, state).ok());
  std::array<std::byte, 16> bytes{};
  Gather gather;
  EXPECT_EQ(Stack::Size(state), 4096u);
  EXPECT_TRUE(Stack::Read(state, 1, bytes).ok());
  EXPECT_TRUE(Stack::Write(state, 2, bytes).ok());
  EXPECT_TRUE(Stack::WriteThrough(state, 3, bytes).ok());
  EXPECT_TRUE(Stack::Flush(state).ok());
  EXPECT_TRUE(Stack::Trim(state, {4, 5}).ok());
  EXPECT_TRUE(Stack::WriteZeroes(state, {6, 7}).ok());
  EXPECT_TRUE(Stack::Extents(state, {8, 9}, [](const Extent&) { return true; }).ok());
  EXPECT_TRUE(Stack::Prefetch(state, {10, 11}).ok());
  EXPECT_TRUE(Stack::View(state, {12, 13}, gather).ok());
  EXPECT_TRUE(Stack::Resize(state, 8192).ok());
  EXPECT_EQ(seen, (std::vector<NotingHook::Seen>{{Operation::kRead, {1, 16}, 0},
                                                 {Operation::kWrite, {2, 16}, 16},
                                                 {Operation::kWriteThrough, {3, 16}, 16},
                                                 {Operation::kFlush, {}, 0},
                                                 {Operation::kTrim, {4, 5}, 0},
                                                 {Operation::kWriteZeroes, {6, 7}, 0},
                                                 {Operation::kExtents, {8, 9}, 0},
                                                 {Operation::kPrefetch, {10, 11}, 0},
                                                 {Operation::kView, {12, 13}, 0},
                                                 {Operation::kResize, {0, 8192}, 0}}));
  EXPECT_EQ(script.calls, (std::vector<Call>{{"Read", {1, 16}},
                                             {"Write", {2, 16}},
                                             {"WriteThrough", {3, 16}},
                                             {"Flush", {}},
                                             {"Trim", {4, 5}},
                                             {"WriteZeroes", {6, 7}},
                                             {"Extents", {8, 9}},
                                             {"Prefetch", {10, 11}},
                                             {"View", {12, 13}},
                                             {"Resize", {0, 8192}}}));
}

TEST(ObserverTest, AHookMayKeepARequestFromTheDevice) {
  using Stack = Noting<Full>;
  Script script;
  std::vector<NotingHook::Seen> seen;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.seen = &seen, .refused = 512, .below = {.size = 4096, .script = &script}}, state).ok());
  std::array<std::byte, 16> bytes{};
  EXPECT_EQ(Stack::Write(state, 512, bytes).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(script.calls.empty());
  EXPECT_TRUE(Stack::Write(state, 513, bytes).ok());
}

TEST(ObserverTest, AHookThatIsToldIsToldOnceOfWhatWasDoneAndNotOfWhatWasOnlyTried) {
  using Stack = Tells<Full>;
  Script script;
  std::vector<ToldHook::Told> told;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.told = &told, .below = {.size = 4096, .script = &script}}, state).ok());
  std::array<std::byte, 16> bytes{};
  EXPECT_TRUE(Stack::TryRead(state, 1, bytes));
  EXPECT_TRUE(Stack::TryWrite(state, 2, bytes));
  const std::vector<ToldHook::Told> done = {{Operation::kRead, {1, 16}, 0, absl::StatusCode::kOk},
                                            {Operation::kWrite, {2, 16}, 16, absl::StatusCode::kOk}};
  EXPECT_EQ(told, done);
  for (const bool write : {false, true}) {
    script.fail_at = static_cast<int>(script.calls.size());
    EXPECT_FALSE(write ? Stack::TryWrite(state, 2, bytes) : Stack::TryRead(state, 1, bytes));
    EXPECT_EQ(told, done) << "it will come again";
  }
  script.fail_at = static_cast<int>(script.calls.size());
  EXPECT_FALSE(Stack::Read(state, 1, bytes).ok());
  ASSERT_EQ(told.size(), 3u);
  EXPECT_NE(told[2].code, absl::StatusCode::kOk);
}

TEST(ObserverTest, OpenFailsWithTheHook) {
  using Stack = Noting<Full>;
  Stack::State state;
  EXPECT_EQ(Stack::Open({}, state).code(), absl::StatusCode::kInvalidArgument);
}

TEST(ObserverTest, EveryErrorBelowSurfaces) {
  using Stack = Empty<Full>;
  const auto configure = [](Script& script) { return Stack::Config{.below = {.size = 4096, .script = &script}}; };
  std::array<std::byte, 16> bytes{};
  EXPECT_EQ(FailNth<Stack>(configure, {7, 16}, [&](auto& state) { return Stack::Write(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {7, 16}, [&](auto& state) { return Stack::Trim(state, {7, 16}); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Read(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Flush(state); }), 1);
}

TEST(OperationTest, EveryOperationHasAName) {
  EXPECT_STREQ(ToString(Operation::kRead), "read");
  EXPECT_STREQ(ToString(Operation::kWriteThrough), "write-through");
  EXPECT_STREQ(ToString(Operation::kWriteZeroes), "write-zeroes");
  EXPECT_STREQ(ToString(Operation::kView), "view");
  EXPECT_STREQ(ToString(Operation::kResize), "resize");
  static_assert(static_cast<size_t>(Operation::kResidency) + 1 == kOperations);
}

}  // namespace
}  // namespace buse::testing
