// SPDX-License-Identifier: Apache-2.0
//
// Verify: both devices get every change, and a read tells where they differ.

#include "layers/verify.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "buse/device.h"
#include "gtest/gtest.h"
#include "layers/contract.h"
#include "layers/fault_plan.h"
#include "layers/faulty.h"
#include "layers/null.h"
#include "layers/observer.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"
#include "tests/steer.h"

template struct buse::Verify<buse::testing::Full, buse::testing::Full>;

namespace buse::testing {
namespace {

constexpr Capabilities kBoth = {.write = true, .write_through = true, .trim = true, .write_zeroes = true, .prefetch = true};

static_assert(kCapabilities<Verify<Full, Full>> == kBoth);
static_assert(kCapabilities<Verify<Full, Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Verify<Writer, Full>> == Capabilities{.write = true});
static_assert(kCapabilities<Verify<Full, Bare>> == kNothing);
static_assert(kCapabilities<Verify<Bare, Full>> == kNothing);
static_assert(Verify<BasicBare<6, Concurrency::kParallel>, BasicBare<4, Concurrency::kParallel>>::kBlockSize == 12);
static_assert(Verify<Full, Full512>::kBlockSize == 512);
static_assert(Verify<Full, Full>::kConcurrency == Concurrency::kDisjoint);
static_assert(Verify<Full, BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);
static_assert(Verify<BasicBare<1, Concurrency::kSerial>, Full>::kConcurrency == Concurrency::kSerial);

using Stack = Verify<Full, Full>;

// Two devices of 12 KiB, with the same pattern.
class VerifyTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kSize = 12288;

  VerifyTest() {
    EXPECT_TRUE(Stack::Open({{{.size = kSize, .script = &a_}, {.size = kSize, .script = &b_}}}, state_).ok());
    std::vector<std::byte> pattern(kSize);
    for (size_t i = 0; i < kSize; ++i) pattern[i] = static_cast<std::byte>(i % 251);
    a_.medium = b_.medium = pattern;
  }

  Script a_;
  Script b_;
  Stack::State state_;
};

const std::vector<std::function<absl::Status(Stack::State&)>> kChanges = {
    [](Stack::State& state) { return Stack::Write(state, 2, std::array<std::byte, 16>{}); },
    [](Stack::State& state) { return Stack::WriteThrough(state, 3, std::array<std::byte, 16>{}); },
    [](Stack::State& state) { return Stack::Flush(state); },
    [](Stack::State& state) {
      return Stack::Trim(state, {4, 5});
    },
    [](Stack::State& state) {
      return Stack::WriteZeroes(state, {6, 7});
    },
    [](Stack::State& state) {
      return Stack::Prefetch(state, {10, 11});
    },
};

TEST_F(VerifyTest, EveryOperationArrivesAtBothUnchanged) {
  EXPECT_EQ(Stack::Size(state_), kSize);
  for (const auto& change : kChanges) EXPECT_TRUE(change(state_).ok());
  std::array<std::byte, 16> bytes;
  EXPECT_TRUE(Stack::Read(state_, 1, bytes).ok());
  const std::vector<Call> calls = {{"Write", {2, 16}},      {"WriteThrough", {3, 16}}, {"Flush", {}},    {"Trim", {4, 5}},
                                   {"WriteZeroes", {6, 7}}, {"Prefetch", {10, 11}},    {"Read", {1, 16}}};
  EXPECT_EQ(a_.calls, calls);
  EXPECT_EQ(b_.calls, calls);
  EXPECT_EQ(a_.medium, b_.medium);
}

TEST_F(VerifyTest, AReadReturnsWhatBothHold) {
  std::vector<std::byte> bytes(kSize - 7);
  EXPECT_TRUE(Stack::Read(state_, 7, bytes).ok());
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), a_.medium.begin() + 7));
  EXPECT_EQ(a_.calls, (std::vector<Call>{{"Read", {7, kSize - 7}}}));
  EXPECT_EQ(b_.calls, (std::vector<Call>{{"Read", {7, 4096}}, {"Read", {4103, 4096}}, {"Read", {8199, kSize - 8199}}}));
}

TEST_F(VerifyTest, EveryDifferenceIsFoundAndItsFirstByteNamed) {
  for (const uint64_t at : {uint64_t{0}, uint64_t{1}, uint64_t{4095}, uint64_t{4096}, uint64_t{5000}, kSize - 1}) {
    const std::byte was = b_.medium[at];
    b_.medium[at] = was ^ std::byte{0xff};
    std::vector<std::byte> bytes(kSize);
    const absl::Status status = Stack::Read(state_, 0, bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(status.message().substr(0, 14 + std::to_string(at).size()), "verify: byte " + std::to_string(at) + " ");
    const auto reads = [&](Bytes part, uint64_t offset) { return part.empty() || Stack::Read(state_, offset, part).ok(); };
    EXPECT_TRUE(reads(Bytes(bytes).first(at), 0));
    EXPECT_TRUE(reads(Bytes(bytes).subspan(at + 1), at + 1));
    b_.medium[at] = was;
  }
}

TEST_F(VerifyTest, TheFirstOfManyDifferencesIsNamed) {
  a_.medium[5000] = std::byte{0x12};
  b_.medium[5000] = std::byte{0x0a};
  b_.medium[5001] ^= std::byte{1};
  b_.medium[9000] ^= std::byte{1};
  std::vector<std::byte> bytes(kSize - 4096);
  EXPECT_EQ(Stack::Read(state_, 4096, bytes),
            absl::DataLossError("verify: byte 5000 is 0x12 on the first device and 0x0a on the second one"));
}

TEST_F(VerifyTest, TheSecondGetsTheChangeThatTheFirstFailed) {
  for (const auto& change : kChanges) {
    a_.calls.clear();
    b_.calls.clear();
    a_.fail_at = b_.fail_at = 0;
    a_.error = absl::ResourceExhaustedError("first");
    b_.error = absl::UnavailableError("second");
    EXPECT_EQ(change(state_), a_.error);
    EXPECT_EQ(a_.calls, b_.calls);
    EXPECT_EQ(b_.calls.size(), 1u);
    a_.fail_at = -1;
    b_.calls.clear();
    EXPECT_EQ(change(state_), b_.error);
    b_.fail_at = -1;
    EXPECT_TRUE(change(state_).ok());
  }
}

TEST_F(VerifyTest, WhereAWriteFailedOnOneReadingFailsUntilItIsWrittenAgain) {
  b_.fail_at = 0;
  const std::array<std::byte, 16> in{};
  EXPECT_EQ(Stack::Write(state_, 100, in), b_.error);
  std::vector<std::byte> bytes(kSize);
  EXPECT_EQ(Stack::Read(state_, 0, bytes).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(Stack::Read(state_, 0, Bytes(bytes).first(100)).ok()) << "nothing outside its range changed";
  EXPECT_TRUE(Stack::Read(state_, 116, Bytes(bytes).subspan(116)).ok());
  EXPECT_TRUE(Stack::Write(state_, 100, in).ok());
  EXPECT_TRUE(Stack::Read(state_, 0, bytes).ok());
}

TEST_F(VerifyTest, DevicesOfDifferentSizesAreRefused) {
  Stack::State state;
  EXPECT_EQ(
      Stack::Open({{{.size = 4096}, {.size = 8192}}}, state),
      absl::InvalidArgumentError("verify: the first device has 4096 bytes and the second one 8192: give two of the same size"));
}

TEST(VerifyOrderTest, EveryChangeGoesToTheFirstDeviceFirst) {
  using Stack = Verify<Steer<Full>, Steer<Full>>;
  std::string order;
  const Steering first = [&](const Request&, absl::FunctionRef<absl::Status()> next) {
    order += '1';
    return next();
  };
  const Steering second = [&](const Request&, absl::FunctionRef<absl::Status()> next) {
    order += '2';
    return next();
  };
  Stack::State state;
  ASSERT_TRUE(Stack::Open({{{.steering = &first}, {.steering = &second}}}, state).ok());
  const std::vector<std::function<absl::Status()>> changes = {
      [&] { return Stack::Write(state, 2, std::array<std::byte, 16>{}); },
      [&] { return Stack::WriteThrough(state, 3, std::array<std::byte, 16>{}); },
      [&] { return Stack::Flush(state); },
      [&] {
        return Stack::Trim(state, {4, 5});
      },
      [&] {
        return Stack::WriteZeroes(state, {6, 7});
      },
  };
  for (const auto& change : changes) {
    order.clear();
    EXPECT_TRUE(change().ok());
    EXPECT_EQ(order, "12");
  }
}

// A bad disk beside a good one: no read returns what is wrong, and none of the others fails.
TEST(VerifyFailureTest, EveryFlippedBitIsFoundOnEitherDevice) {
  constexpr uint64_t kSize = 64 * 512;
  const auto count = [&](auto stack, auto config) {
    using Stack = decltype(stack);
    auto state = std::make_unique<typename Stack::State>();
    EXPECT_TRUE(Stack::Open(config, *state).ok());
    int found = 0;
    for (int value = 0; value < 20; ++value) {
      const std::vector<std::byte> bytes(kSize, static_cast<std::byte>(value));
      EXPECT_TRUE(Stack::Write(*state, 0, bytes).ok());
      for (uint64_t at = 0; at < kSize; at += 512) {
        std::array<std::byte, 512> out;
        const absl::Status status = Stack::Read(*state, at, out);
        found += absl::IsDataLoss(status);
        if (status.ok()) {
          EXPECT_TRUE(std::equal(out.begin(), out.end(), bytes.begin()));
        }
      }
    }
    return found;
  };
  FaultPlan plan;
  ASSERT_TRUE(plan.Parse("flip,in=10").ok());
  const int first = count(Verify<Faulty<Full>, Full>(),
                          Verify<Faulty<Full>, Full>::Config{{{.plan = &plan, .below = {.size = kSize}}, {.size = kSize}}});
  EXPECT_GT(first, 50);
  EXPECT_EQ(plan.flipped(), static_cast<uint64_t>(first));
  const int second = count(Verify<Full, Faulty<Full>>(),
                           Verify<Full, Faulty<Full>>::Config{{{.size = kSize}, {.plan = &plan, .below = {.size = kSize}}}});
  EXPECT_EQ(plan.flipped(), static_cast<uint64_t>(first + second));
  EXPECT_GT(second, 50);
}

TEST(VerifyFailureTest, AnErrorOfOpeningEitherIsPassedOn) {
  using Stack = Verify<Null, Null>;
  Stack::State first;
  const absl::Status status = Stack::Open({{{.size = 0}, {.size = 4096}}}, first);
  EXPECT_FALSE(status.ok());
  Stack::State second;
  EXPECT_EQ(Stack::Open({{{.size = 4096}, {.size = 0}}}, second), status);
}

// What bears calls that do not overlap, with threads that keep to that.
TEST(VerifyThreadsTest, CallsThatDoNotOverlapRunTogether) {
  auto state = std::make_unique<Stack::State>();
  ASSERT_TRUE(Stack::Open({{{.size = 65536}, {.size = 65536}}}, *state).ok());
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::vector<std::byte> bytes(8192);
      for (int i = 0; i < 100; ++i) {
        std::fill(bytes.begin(), bytes.end(), static_cast<std::byte>(i));
        EXPECT_TRUE(Stack::Write(*state, 16384 * t, bytes).ok());
        EXPECT_TRUE(Stack::Read(*state, 16384 * t, bytes).ok());
        EXPECT_EQ(bytes.back(), static_cast<std::byte>(i));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(VerifyFailureTest, EveryErrorOfAReadOrAFlushSurfaces) {
  const auto first = [](Script& script) { return Stack::Config{{{.size = 12288, .script = &script}, {.size = 12288}}}; };
  const auto second = [](Script& script) { return Stack::Config{{{.size = 12288}, {.size = 12288, .script = &script}}}; };
  std::vector<std::byte> bytes(9000);
  const auto read = [&](auto& state) { return Stack::Read(state, 7, bytes); };
  const auto flush = [&](auto& state) { return Stack::Flush(state); };
  EXPECT_EQ(FailNth<Stack>(first, {}, read), 1);
  EXPECT_EQ(FailNth<Stack>(second, {}, read), 3);
  EXPECT_EQ(FailNth<Stack>(first, {}, flush), 1);
  EXPECT_EQ(FailNth<Stack>(second, {}, flush), 1);
}

TEST(VerifyBlocksTest, TheSecondReadKeepsToTheBlocksOfBoth) {
  using Stack =
      Contract<Verify<Contract<BasicFull<96, Concurrency::kParallel>>, Contract<BasicFull<64, Concurrency::kParallel>>>>;
  static_assert(Stack::kBlockSize == 192);
  auto state = std::make_unique<Stack::State>();
  ASSERT_TRUE(Stack::Open({{{{{.size = 192 * 100}}, {{.size = 192 * 100}}}}}, *state).ok());
  std::vector<std::byte> bytes(192 * 99);
  EXPECT_TRUE(Stack::Write(*state, 192, bytes).ok());
  EXPECT_TRUE(Stack::Read(*state, 192, bytes).ok());
}

}  // namespace
}  // namespace buse::testing
