// SPDX-License-Identifier: Apache-2.0
//
// Faulty: each kind of fault does what the model says, to the operations the plan names and to no others.

#include "layers/faulty.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "buse/options.h"
#include "buse/status.h"
#include "gtest/gtest.h"
#include "layers/fault_plan.h"
#include "layers/operation.h"
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
  const absl::StatusCode kError = StatusFromErrno(EIO, "").code();
  EXPECT_EQ(kError, absl::StatusCode::kInternal);
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
  EXPECT_TRUE(Stack::Resize(state_, 2048).ok()) << "a resize touches no bytes";
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
  ASSERT_TRUE(Stack::Write(state_, 0, pristine_).ok());
  EXPECT_EQ(Read(0, kSize), second) << "bad while it holds the same";
}

// Sectors that hold the same, each in another place.
TEST_F(FaultyTest, ThePlaceDecidesWhichBit) {
  script_.medium = Filled(kSize, 0);
  Open("flip");
  const Buffer bytes = Read(0, kSize);
  std::set<Buffer> sectors;
  for (size_t at = 0; at < kSize; at += 512) sectors.insert(Buffer(bytes.begin() + at, bytes.begin() + at + 512));
  EXPECT_GT(sectors.size(), 6u);
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

TEST_F(FaultyTest, TheSeedDecidesWhereAMisdirectedWriteGoes) {
  std::vector<uint64_t> places;
  for (uint64_t seed : {3, 3, 4}) {
    Script script;
    Stack::State state;
    ASSERT_TRUE(Stack::Open({.faults = "misdirected", .seed = seed, .below = {.size = kSize, .script = &script}}, state).ok());
    ASSERT_TRUE(Stack::Write(state, 0, Filled(1, 9)).ok());
    places.push_back(script.calls.at(0).range.offset);
  }
  EXPECT_EQ(places[0], places[1]);
  EXPECT_NE(places[0], places[2]);
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

// What a fault leaves of a change, for every operation that is one: [700, 700 + 1500) has borders at 1024, 1536 and 2048.
TEST_F(FaultyTest, EveryChangeSuffersWhatWritesDo) {
  constexpr Range kRange = {700, 1500};
  const std::vector<std::pair<const char*, std::function<absl::Status(Stack::State&)>>> changes = {
      {"Write", [&](auto& state) { return Stack::Write(state, kRange.offset, Filled(kRange.length, 0)); }},
      {"WriteThrough", [&](auto& state) { return Stack::WriteThrough(state, kRange.offset, Filled(kRange.length, 0)); }},
      {"Trim", [&](auto& state) { return Stack::Trim(state, kRange); }},
      {"WriteZeroes", [&](auto& state) { return Stack::WriteZeroes(state, kRange); }},
  };
  for (const auto& [name, change] : changes) {
    for (const std::string kind : {"lost", "misdirected", "torn", "short"}) {
      SCOPED_TRACE(kind + " " + name);
      std::set<uint64_t> prefixes;
      for (uint64_t seed = 0; seed < 60; ++seed) {
        Script script;
        Stack::State state;
        ASSERT_TRUE(Stack::Open({.faults = kind, .seed = seed, .below = {.size = kSize, .script = &script}}, state).ok());
        EXPECT_EQ(change(state).code(), kind == "short" ? absl::StatusCode::kInternal : absl::StatusCode::kOk);
        ASSERT_LE(script.calls.size(), 1u);
        const Range done = script.calls.empty() ? Range{kRange.offset, 0} : script.calls[0].range;
        if (!script.calls.empty()) {
          EXPECT_EQ(script.calls[0].operation, name);
        }
        if (kind == "misdirected") {
          EXPECT_NE(done.offset, kRange.offset);
          EXPECT_LE(done.end(), kSize);
        } else {
          EXPECT_EQ(done.offset, kRange.offset);
        }
        prefixes.insert(done.length);
      }
      const std::set<uint64_t> borders = {0, 324, 836, 1348};
      EXPECT_EQ(prefixes, kind == "lost" ? std::set<uint64_t>{0} : kind == "misdirected" ? std::set<uint64_t>{1500} : borders);
    }
  }
}

TEST_F(FaultyTest, AShortReadFillsAPrefixUpToABorder) {
  std::set<uint64_t> prefixes;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Stack::State state;
    ASSERT_TRUE(Stack::Open({.faults = "short", .seed = seed, .below = {.size = kSize, .script = &script_}}, state).ok());
    Buffer bytes = Filled(1500, 0xff);
    EXPECT_EQ(Stack::Read(state, 700, bytes).code(), absl::StatusCode::kInternal);
    const uint64_t filled = std::find(bytes.begin(), bytes.end(), std::byte{0xff}) - bytes.begin();
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.begin() + filled, pristine_.begin() + 700));
    EXPECT_EQ(Buffer(bytes.begin() + filled, bytes.end()), Filled(1500 - filled, 0xff));
    prefixes.insert(filled);
  }
  EXPECT_EQ(prefixes, (std::set<uint64_t>{0, 324, 836, 1348}));
}

TEST_F(FaultyTest, WhatIsTornOverLargeBlocksEndsAtABlock) {
  using Blocks = Faulty<BasicFull<4096, Concurrency::kParallel>>;
  std::set<uint64_t> prefixes;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Script script;
    Blocks::State state;
    ASSERT_TRUE(Blocks::Open({.faults = "torn", .seed = seed, .below = {.size = 65536, .script = &script}}, state).ok());
    ASSERT_TRUE(Blocks::Write(state, 4096, Filled(3 * 4096, 9)).ok());
    prefixes.insert(script.calls.empty() ? 0 : script.calls[0].range.length);
  }
  EXPECT_EQ(prefixes, (std::set<uint64_t>{0, 4096, 8192}));
}

TEST_F(FaultyTest, EveryOperationCanBeDelayed) {
  Open("delay,ms=5");
  Buffer bytes(512);
  const std::vector<std::function<absl::Status()>> operations = {
      [&] { return Stack::Read(state_, 0, bytes); },         [&] { return Stack::Write(state_, 0, bytes); },
      [&] { return Stack::WriteThrough(state_, 0, bytes); }, [&] { return Stack::Flush(state_); },
      [&] { return Stack::Trim(state_, {0, 512}); },         [&] { return Stack::WriteZeroes(state_, {0, 512}); },
      [&] { return Stack::Prefetch(state_, {0, 512}); },     [&] { return Stack::Resize(state_, kSize); },
  };
  for (const auto& operation : operations) {
    script_.calls.clear();
    const auto start = std::chrono::steady_clock::now();
    EXPECT_TRUE(operation().ok());
    EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(5));
    EXPECT_EQ(script_.calls.size(), 1u);
  }
}

TEST_F(FaultyTest, OneFaultStrikesAnOperationAndTheOthersCountIt) {
  Open("lost,op=write,nth=1,times=2; error,op=write,nth=2,times=2");
  std::vector<absl::StatusCode> codes;
  for (int i = 0; i < 4; ++i) codes.push_back(Stack::Write(state_, 0, Filled(1, 9)).code());
  const auto kOk = absl::StatusCode::kOk;
  EXPECT_EQ(codes, (std::vector{kOk, kOk, absl::StatusCode::kInternal, kOk}));
  EXPECT_EQ(script_.calls.size(), 1u) << "two were lost";
  EXPECT_EQ(plan_.strikes(), 3u);
}

TEST_F(FaultyTest, BitsFlipInWhatIsDelayedToo) {
  Open("delay,ms=5,op=read; flip");
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(Flipped(Read(0, kSize), pristine_), 8);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(5));
}

// Each kind, chosen in each of the three ways.
class FaultyKindTest : public FaultyTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void Plan(const std::string& options, uint64_t seed = 1) {
    plan_.Clear();
    Open(GetParam() + std::string(GetParam() == std::string("delay") ? ",ms=5" : "") + options, seed);
  }

  // Does an operation on two sectors, a read for flips and else a write, of a medium that holds nothing but `value`. Returns
  // whether it was struck, and expects that one sees it.
  bool Struck(uint64_t offset, int value) {
    const std::string kind = GetParam();
    script_.medium = Filled(kSize, value);
    const uint64_t before = plan_.strikes() + plan_.flipped();
    const auto start = std::chrono::steady_clock::now();
    bool sound;
    if (kind == "flip") {
      sound = Read(offset, 1024) == Filled(1024, value);
    } else {
      Buffer want = Filled(kSize, value);
      std::fill_n(want.begin() + offset, 1024, std::byte{0xee});
      sound = Stack::Write(state_, offset, Filled(1024, 0xee)).ok() && script_.medium == want;
    }
    const auto took = std::chrono::steady_clock::now() - start;
    const bool struck = plan_.strikes() + plan_.flipped() > before;
    if (kind == "delay") {
      EXPECT_TRUE(sound);
      EXPECT_TRUE(!struck || took >= std::chrono::milliseconds(5));
    } else {
      EXPECT_EQ(sound, !struck);
    }
    return struck;
  }
};

TEST_P(FaultyKindTest, ByPlan) {
  Plan(",nth=2,times=2");
  std::vector<bool> struck;
  for (int i = 0; i < 5; ++i) struck.push_back(Struck(1024, i));
  EXPECT_EQ(struck, (std::vector<bool>{false, true, true, false, false}));
}

TEST_P(FaultyKindTest, TimesWithoutNthAreTheFirst) {
  Plan(",times=2");
  std::vector<bool> struck;
  for (int i = 0; i < 4; ++i) struck.push_back(Struck(1024, i));
  EXPECT_EQ(struck, (std::vector<bool>{true, true, false, false}));
}

TEST_P(FaultyKindTest, ByOffset) {
  Plan(",at=1024+512");
  EXPECT_FALSE(Struck(0, 1));
  EXPECT_TRUE(Struck(512, 1));
  EXPECT_TRUE(Struck(1024, 1));
  EXPECT_FALSE(Struck(1536, 1));
}

TEST_P(FaultyKindTest, BySeed) {
  const auto draw = [&](uint64_t seed) {
    Plan(",in=4", seed);
    std::vector<bool> struck;
    for (int i = 0; i < 64; ++i) struck.push_back(Struck(i % 3 * 1024, i));
    return struck;
  };
  const std::vector<bool> first = draw(1);
  EXPECT_EQ(first, draw(1));
  EXPECT_NE(first, draw(2));
  const auto struck = std::count(first.begin(), first.end(), true);
  EXPECT_GT(struck, 5);
  EXPECT_LT(struck, 50);
}

INSTANTIATE_TEST_SUITE_P(Kinds, FaultyKindTest,
                         ::testing::Values("error", "short", "delay", "flip", "lost", "misdirected", "torn"),
                         [](const auto& info) { return std::string(info.param); });

// Threads whose writes are counted together, while another one changes the plan.
TEST_F(FaultyTest, ThreadsShareOnePlan) {
  Open("error,op=write,nth=100,times=50; flip; lost,op=trim,in=2");
  std::atomic<int> errors = 0;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      Buffer bytes = Filled(512, static_cast<int>(t));
      for (int i = 0; i < 200; ++i) {
        errors += !Stack::Write(state_, 512 * t, bytes).ok();
        EXPECT_TRUE(Stack::Read(state_, 512 * t, bytes).ok());
        EXPECT_TRUE(Stack::Trim(state_, {512 * t, 512}).ok());
        EXPECT_TRUE(Stack::Flush(state_).ok());
      }
    });
  }
  for (int i = 0; i < 50; ++i) {
    plan_.Add({.kind = Fault::Kind::kDelay, .operation = Operation::kPrefetch, .nth = 1});
    EXPECT_TRUE(Stack::Prefetch(state_, {3000, 1}).ok());
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(errors, 50);
  EXPECT_EQ(plan_.flipped(), 800u) << "one in each read";
}

TEST_F(FaultyTest, TheExamplesOfTheHeader) {
  Stack::State state;
  ASSERT_TRUE(
      Stack::Open({.faults = "error,op=write,nth=3; flip,in=1000", .seed = 7, .below = {.size = 64 << 20}}, state).ok());
  std::vector<bool> ok;
  for (int i = 0; i < 4; ++i) ok.push_back(Stack::Write(state, 0, Filled(1, 0)).ok());
  EXPECT_EQ(ok, (std::vector<bool>{true, true, false, true}));
  Buffer bytes(64 << 20);
  ASSERT_TRUE(Stack::Read(state, 0, bytes).ok());
  EXPECT_NEAR(Flipped(bytes, Buffer(64 << 20)), 131, 50) << "of 131072 sectors, one of 1000 each";

  Open("");
  plan_.Add({.kind = Fault::Kind::kLost, .operation = Operation::kWrite, .nth = 1});
  ASSERT_TRUE(Stack::Write(state_, 0, Filled(512, 99)).ok());
  EXPECT_EQ(script_.medium, pristine_);
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
  EXPECT_GT(plan_.flipped(), 0u);
  plan_.Clear();
  EXPECT_EQ(Read(0, kSize), pristine_);
  EXPECT_EQ(plan_.strikes() + plan_.flipped(), 0u) << "counting begins anew";
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

// Of every operation whether the kind can befall it: "x" if so, "n" if it must be named.
TEST(FaultPlanTest, EveryKindConcernsWhatTheHeaderSays) {
  constexpr std::array<Operation, 8> kAll = {Operation::kRead,     Operation::kWrite,       Operation::kWriteThrough,
                                             Operation::kTrim,     Operation::kWriteZeroes, Operation::kFlush,
                                             Operation::kPrefetch, Operation::kResize};
  const std::pair<const char*, const char*> kKinds[] = {
      {"error", "xxxxxxxx"}, {"delay", "xxxxxxxx"},       {"short", "xxxxx---"}, {"flip", "x-------"},
      {"lost", "-xxxxn--"},  {"misdirected", "-xxxx---"}, {"torn", "-xxxx---"},
  };
  for (const auto& [kind, concerns] : kKinds) {
    for (size_t i = 0; i < kAll.size(); ++i) {
      SCOPED_TRACE(std::string(kind) + " " + ToString(kAll[i]));
      FaultPlan any;
      ASSERT_TRUE(any.Parse(std::string(kind) + ",nth=1").ok());
      EXPECT_EQ(any.Next(kAll[i], {0, 512}).has_value(), concerns[i] == 'x');
      FaultPlan named;
      ASSERT_EQ(named.Parse(std::string(kind) + ",nth=1,op=" + ToString(kAll[i])).ok(), concerns[i] != '-');
      EXPECT_EQ(named.Next(kAll[i], {0, 512}).has_value(), concerns[i] != '-');
      EXPECT_FALSE(named.Next(kAll[i], {0, 512}).has_value()) << "once";
    }
  }
}

// The text at the top of the header.
TEST(FaultPlanTest, TheExamplesMeanWhatTheHeaderSays) {
  FaultPlan read;
  ASSERT_TRUE(read.Parse("short,op=read,nth=2,times=5").ok());
  std::string struck;
  for (int i = 0; i < 8; ++i) struck += read.Next(Operation::kRead, {0, 512}).has_value() ? 'x' : '-';
  EXPECT_EQ(struck, "-xxxxx--");
  FaultPlan few;
  ASSERT_TRUE(few.Parse("lost,in=1000; torn,in=1000").ok());
  int lost = 0;
  int torn = 0;
  for (int i = 0; i < 100000; ++i) {
    const auto strike = few.Next(Operation::kWrite, {0, 512});
    if (strike.has_value()) ++(strike->kind == Fault::Kind::kLost ? lost : torn);
  }
  EXPECT_NEAR(lost, 100, 50);
  EXPECT_NEAR(torn, 100, 50);
  FaultPlan slow;
  ASSERT_TRUE(slow.Parse("delay,ms=20,op=flush").ok());
  EXPECT_EQ(slow.Next(Operation::kFlush, {})->milliseconds, 20u);
  FaultPlan sectors;
  ASSERT_TRUE(sectors.Parse("flip,at=1M+4K").ok());
  for (const uint64_t number : {2047, 2048, 2055, 2056}) {
    Buffer sector(512);
    sectors.Flip(number, sector);
    EXPECT_EQ(sector != Buffer(512), number == 2048 || number == 2055) << number;
  }
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
