// SPDX-License-Identifier: Apache-2.0
//
// Faulty: each kind of fault does what the model says, to the operations the plan names and to no others.

#include "layers/faulty.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "buse/options.h"
#include "gtest/gtest.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"

template struct buse::Faulty<buse::testing::Full>;
template struct buse::Faulty<buse::testing::BasicFull<4096, buse::Concurrency::kParallel>>;

namespace buse::testing {
namespace {

static_assert(kCapabilities<Faulty<Full>> ==
              Capabilities{
                  .write = true, .write_through = true, .trim = true, .write_zeroes = true, .prefetch = true, .resize = true});
static_assert(kCapabilities<Faulty<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Faulty<Bare>> == kNothing);
static_assert(Faulty<Full512>::kBlockSize == 512);
static_assert(Faulty<BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);

using Stack = Faulty<Full>;
using Buffer = std::vector<std::byte>;

Buffer Filled(size_t size, int value) { return Buffer(size, static_cast<std::byte>(value)); }

// A device of 8 sectors, sector n filled with n + 1.
class FaultyTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kSize = 4096;

  FaultyTest() {
    for (size_t i = 0; i < kSize; ++i) pristine_.push_back(static_cast<std::byte>(i / 512 + 1));
    script_.medium = pristine_;
  }

  void Open(const std::string& faults, uint64_t seed = 1) {
    ASSERT_TRUE(
        Stack::Open({.faults = faults, .seed = seed, .plan = &plan_, .below = {.size = kSize, .script = &script_}}, state_)
            .ok());
  }

  Buffer Read(uint64_t offset, size_t length) {
    Buffer bytes(length);
    EXPECT_TRUE(Stack::Read(state_, offset, bytes).ok());
    return bytes;
  }

  // The bits in which the buffers differ.
  static int Flipped(const Buffer& a, const Buffer& b) {
    int bits = 0;
    for (size_t i = 0; i < a.size(); ++i) bits += __builtin_popcount(std::to_integer<unsigned>(a[i] ^ b[i]));
    return bits;
  }

  FaultPlan plan_;
  Script script_;
  Buffer pristine_;
  Stack::State state_;
};

TEST_F(FaultyTest, WithoutAPlanEveryOperationArrivesBelowUnchanged) {
  Open("");
  Buffer bytes = Filled(16, 9);
  EXPECT_EQ(Stack::Size(state_), kSize);
  EXPECT_TRUE(Stack::Read(state_, 1, bytes).ok());
  EXPECT_TRUE(Stack::Write(state_, 2, bytes).ok());
  EXPECT_TRUE(Stack::WriteThrough(state_, 3, bytes).ok());
  EXPECT_TRUE(Stack::Flush(state_).ok());
  EXPECT_TRUE(Stack::Trim(state_, {4, 5}).ok());
  EXPECT_TRUE(Stack::WriteZeroes(state_, {6, 7}).ok());
  EXPECT_TRUE(Stack::Prefetch(state_, {10, 11}).ok());
  EXPECT_TRUE(Stack::Resize(state_, 8192).ok());
  EXPECT_EQ(script_.calls, (std::vector<Call>{{"Read", {1, 16}},
                                              {"Write", {2, 16}},
                                              {"WriteThrough", {3, 16}},
                                              {"Flush", {}},
                                              {"Trim", {4, 5}},
                                              {"WriteZeroes", {6, 7}},
                                              {"Prefetch", {10, 11}},
                                              {"Resize", {0, 8192}}}));
  EXPECT_EQ(plan_.strikes(), 0u);
}

TEST_F(FaultyTest, AnErrorStrikesTheNthAndIsNotDone) {
  Open("error,op=write,nth=2,times=2");
  std::vector<bool> ok;
  for (int i = 0; i < 5; ++i) {
    const absl::Status status = Stack::Write(state_, i, Filled(1, 0));
    EXPECT_TRUE(Stack::Flush(state_).ok());
    ok.push_back(status.ok());
    EXPECT_EQ(status.code(), i == 1 || i == 2 ? absl::StatusCode::kInternal : absl::StatusCode::kOk);
  }
  EXPECT_EQ(ok, (std::vector<bool>{true, false, false, true, true}));
  EXPECT_EQ(Buffer(script_.medium.begin(), script_.medium.begin() + 6),
            (Buffer{std::byte{0}, std::byte{1}, std::byte{1}, std::byte{0}, std::byte{0}, std::byte{1}}));
  EXPECT_EQ(plan_.strikes(), 2u);
}

TEST_F(FaultyTest, ErrorsStrikeEveryOperation) {
  Open("error");
  Buffer bytes(512);
  const auto kError = absl::StatusCode::kInternal;
  EXPECT_EQ(Stack::Read(state_, 0, bytes).code(), kError);
  EXPECT_EQ(Stack::Write(state_, 0, bytes).code(), kError);
  EXPECT_EQ(Stack::WriteThrough(state_, 0, bytes).code(), kError);
  EXPECT_EQ(Stack::Flush(state_).code(), kError);
  EXPECT_EQ(Stack::Trim(state_, {0, 512}).code(), kError);
  EXPECT_EQ(Stack::WriteZeroes(state_, {0, 512}).code(), kError);
  EXPECT_EQ(Stack::Prefetch(state_, {0, 512}).code(), kError);
  EXPECT_EQ(Stack::Resize(state_, 512).code(), kError);
  EXPECT_TRUE(script_.calls.empty());
}

TEST_F(FaultyTest, ARangeNamesTheBytes) {
  Open("error,at=1K+512");
  Buffer bytes(512);
  EXPECT_TRUE(Stack::Read(state_, 512, bytes).ok());
  EXPECT_FALSE(Stack::Read(state_, 1023 - 100, bytes).ok());
  EXPECT_FALSE(Stack::Write(state_, 1535, Filled(1, 0)).ok());
  EXPECT_TRUE(Stack::Write(state_, 1536, Filled(1, 0)).ok());
  EXPECT_TRUE(Stack::Flush(state_).ok());
}

TEST_F(FaultyTest, AFlippedBitDoesNotHealAndIsNotBelow) {
  Open("flip,at=1024+1024");
  const Buffer first = Read(0, kSize);
  EXPECT_EQ(Flipped(first, pristine_), 2);  // one in each sector of the range
  EXPECT_EQ(Read(0, kSize), first);
  EXPECT_EQ(script_.medium, pristine_);
  // Reads of parts see the same bytes.
  for (uint64_t offset = 0; offset < kSize; offset += 100) {
    const size_t length = std::min<size_t>(777, kSize - offset);
    EXPECT_EQ(Read(offset, length), Buffer(first.begin() + offset, first.begin() + offset + length)) << offset;
  }
  // The same content again flips the same bit; opened again too.
  ASSERT_TRUE(Stack::Write(state_, 1024, Filled(512, 3)).ok());
  EXPECT_EQ(Read(0, kSize), first);
  Stack::State again;
  ASSERT_TRUE(
      Stack::Open({.faults = "flip,at=1024+1024", .seed = 1, .below = {.size = kSize, .script = &script_}}, again).ok());
  Buffer bytes(kSize);
  ASSERT_TRUE(Stack::Read(again, 0, bytes).ok());
  EXPECT_EQ(bytes, first);
}

TEST_F(FaultyTest, NewContentIsANewDraw) {
  Open("flip,in=4");
  int flips = 0;
  int changed = 0;
  bool before = false;
  for (int value = 0; value < 200; ++value) {
    ASSERT_TRUE(Stack::Write(state_, 512, Filled(512, value)).ok());
    const bool flipped = Flipped(Read(512, 512), Filled(512, value)) == 1;
    flips += flipped;
    changed += flipped != before;
    before = flipped;
  }
  EXPECT_GT(flips, 25);
  EXPECT_LT(flips, 85);
  EXPECT_GT(changed, 20);
}

TEST_F(FaultyTest, TheSeedDecidesWhichBits) {
  std::vector<Buffer> reads;
  for (uint64_t seed : {1, 1, 2}) {
    Stack::State state;
    ASSERT_TRUE(Stack::Open({.faults = "flip", .seed = seed, .below = {.size = kSize, .script = &script_}}, state).ok());
    reads.emplace_back(kSize);
    ASSERT_TRUE(Stack::Read(state, 0, reads.back()).ok());
  }
  EXPECT_EQ(reads[0], reads[1]);
  EXPECT_NE(reads[0], reads[2]);
}

TEST_F(FaultyTest, ACountedFlipMakesASectorBadForGood) {
  Open("flip,nth=2");
  EXPECT_EQ(Read(0, kSize), pristine_);
  const Buffer second = Read(0, kSize);
  EXPECT_EQ(Flipped(second, pristine_), 1);
  EXPECT_EQ(Read(0, kSize), second);
  EXPECT_EQ(plan_.strikes(), 1u);
  EXPECT_EQ(plan_.flipped(), 2u);
  ASSERT_TRUE(Stack::Write(state_, 0, Filled(kSize, 0x55)).ok());
  EXPECT_EQ(Read(0, kSize), Filled(kSize, 0x55));
}

TEST_F(FaultyTest, ALostChangeIsAcknowledged) {
  Open("lost,op=write,nth=1; lost,op=trim; lost,op=flush");
  EXPECT_TRUE(Stack::Write(state_, 0, Filled(512, 9)).ok());
  EXPECT_TRUE(Stack::Trim(state_, {512, 512}).ok());
  EXPECT_TRUE(Stack::Flush(state_).ok());
  EXPECT_EQ(script_.medium, pristine_);
  EXPECT_TRUE(script_.calls.empty());
  EXPECT_TRUE(Stack::Write(state_, 0, Filled(512, 9)).ok());
  EXPECT_EQ(script_.medium[0], std::byte{9});
}

TEST_F(FaultyTest, AFlushIsNotLostUnlessNamed) {
  Open("lost");
  EXPECT_TRUE(Stack::WriteThrough(state_, 0, Filled(512, 9)).ok());
  EXPECT_TRUE(Stack::Flush(state_).ok());
  EXPECT_EQ(script_.calls, (std::vector<Call>{{"Flush", {}}}));
}

TEST_F(FaultyTest, AMisdirectedWriteGoesElsewhere) {
  for (uint64_t seed = 1; seed < 50; ++seed) {
    Script script;
    script.medium = pristine_;
    Faulty<Full512>::State state;
    ASSERT_TRUE(
        Faulty<Full512>::Open({.faults = "misdirected", .seed = seed, .below = {.size = kSize, .script = &script}}, state)
            .ok());
    ASSERT_TRUE(Faulty<Full512>::Write(state, 1024, Filled(512, 99)).ok());
    ASSERT_EQ(script.calls.size(), 1u);
    EXPECT_NE(script.calls[0].range.offset, 1024u);
    EXPECT_EQ(script.calls[0].range.offset % 512, 0u);
    EXPECT_EQ(std::count(script.medium.begin(), script.medium.end(), std::byte{99}), 512);
  }
}

TEST_F(FaultyTest, AMisdirectedWriteOfEverythingIsLost) {
  Open("misdirected");
  ASSERT_TRUE(Stack::Write(state_, 0, Filled(kSize, 99)).ok());
  EXPECT_EQ(script_.medium, pristine_);
}

TEST_F(FaultyTest, ATornWriteLeavesAPrefixOfSectors) {
  Open("torn");
  std::vector<int> lengths(5);
  for (int i = 0; i < 100; ++i) {
    script_.medium = pristine_;
    ASSERT_TRUE(Stack::Write(state_, 400, Filled(1500, 99)).ok());  // borders at 512, 1024 and 1536
    const size_t written = std::find(script_.medium.begin() + 400, script_.medium.end(), std::byte{99}) == script_.medium.end()
                               ? 0
                               : std::count(script_.medium.begin(), script_.medium.end(), std::byte{99});
    const size_t expected[] = {0, 112, 624, 1136};
    const auto* found = std::find(std::begin(expected), std::end(expected), written);
    ASSERT_NE(found, std::end(expected)) << written;
    ++lengths[found - std::begin(expected)];
  }
  for (int i = 0; i < 4; ++i) EXPECT_GT(lengths[i], 0) << i;
}

TEST_F(FaultyTest, AShortOperationDoesAPrefixAndFails) {
  Open("short");
  bool some = false;
  for (int i = 0; i < 20; ++i) {
    script_.medium = pristine_;
    EXPECT_EQ(Stack::Write(state_, 0, Filled(2048, 99)).code(), absl::StatusCode::kInternal);
    const auto written = std::count(script_.medium.begin(), script_.medium.end(), std::byte{99});
    EXPECT_EQ(written % 512, 0);
    EXPECT_LT(written, 2048);
    some |= written > 0;
  }
  EXPECT_TRUE(some);
  Buffer bytes(2048);
  EXPECT_EQ(Stack::Read(state_, 0, bytes).code(), absl::StatusCode::kInternal);
}

TEST_F(FaultyTest, ADelayedOperationIsDone) {
  Open("delay,ms=20,op=write");
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(Stack::Write(state_, 0, Filled(512, 9)).ok());
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(20));
  EXPECT_EQ(script_.medium[0], std::byte{9});
}

TEST_F(FaultyTest, ChancesFollowTheSeed) {
  const auto failures = [&](uint64_t seed) {
    Stack::State state;
    EXPECT_TRUE(Stack::Open({.faults = "error,in=10", .seed = seed, .below = {.size = kSize, .script = &script_}}, state).ok());
    std::vector<bool> failed;
    for (int i = 0; i < 1000; ++i) failed.push_back(!Stack::Flush(state).ok());
    return failed;
  };
  const std::vector<bool> first = failures(1);
  EXPECT_EQ(first, failures(1));
  EXPECT_NE(first, failures(2));
  EXPECT_GT(std::count(first.begin(), first.end(), true), 60);
  EXPECT_LT(std::count(first.begin(), first.end(), true), 140);
}

TEST_F(FaultyTest, ATestChangesThePlanAsItGoes) {
  Open("");
  plan_.Add({.kind = Fault::Kind::kError, .operation = Operation::kFlush, .nth = 1});
  EXPECT_FALSE(Stack::Flush(state_).ok());
  EXPECT_TRUE(Stack::Flush(state_).ok());
  plan_.Add({.kind = Fault::Kind::kFlip});
  EXPECT_NE(Read(0, kSize), pristine_);
  plan_.Clear();
  EXPECT_EQ(Read(0, kSize), pristine_);
}

TEST_F(FaultyTest, WholeSectorsOfLargeBlocksFlip) {
  using Blocks = Faulty<BasicFull<4096, Concurrency::kParallel>>;
  Blocks::State state;
  ASSERT_TRUE(Blocks::Open({.faults = "flip", .below = {.size = kSize, .script = &script_}}, state).ok());
  Buffer bytes(kSize);
  ASSERT_TRUE(Blocks::Read(state, 0, bytes).ok());
  EXPECT_EQ(Flipped(bytes, pristine_), 8);
}

TEST_F(FaultyTest, WhatFailsBelowFails) {
  const auto configure = [](Script& script) { return Stack::Config{.faults = "flip,at=0+1", .below = {.script = &script}}; };
  Buffer bytes(100);
  // The read, and the whole sectors at its edges.
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Read(state, 500, bytes); }), 3);
  EXPECT_EQ(FailNth<Stack>(configure, {600, 100}, [&](auto& state) { return Stack::Write(state, 600, bytes); }), 1);
}

TEST(FaultPlanTest, SaysWhatIsWrongWithAText) {
  const std::pair<const char*, const char*> kCases[] = {
      {"broken", "the fault \"broken\" is of no known kind: take error"},
      {"error,op=seek", "names no operation: take read"},
      {"flip,op=write", "the fault \"flip,op=write\" cannot befall a write"},
      {"error,at=5", "needs at=OFFSET+LENGTH"},
      {"error,at=1+0", "needs at=OFFSET+LENGTH"},
      {"error,nth=0", "needs a whole number from 1 on after nth="},
      {"error,in=x", "needs a whole number from 1 on after in="},
      {"error,colour=red", "does not know \"colour\": take op, at, nth, times, in or ms"},
      {"lost;;error,", "does not know \"\""},
  };
  for (const auto& [text, message] : kCases) {
    FaultPlan plan;
    const absl::Status status = plan.Parse(text);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(std::string(status.message()).find(message), std::string::npos) << status.message();
    EXPECT_FALSE(plan.Next(Operation::kWrite, {0, 1}).has_value()) << "nothing of a bad text is taken";
  }
}

TEST(FaultyOptionsTest, APlanComesFromTheCommandLine) {
  Stack::Config config;
  std::vector<LayerInfo> layers = DescribeStack<Stack>(config);
  const char* argv[] = {"disk", "--faults", "lost,in=100; error,op=flush", "--seed", "7"};
  ASSERT_TRUE(ParseCommandLine(5, argv, {}, layers).ok());
  Stack::State state;
  ASSERT_TRUE(Stack::Open(config, state).ok());
  EXPECT_EQ(Stack::Flush(state).code(), absl::StatusCode::kInternal);
  config.faults = "dust";
  Stack::State other;
  EXPECT_EQ(std::string(Stack::Open(config, other).message()).find("faulty: the fault \"dust\""), 0u);
}

}  // namespace
}  // namespace buse::testing
