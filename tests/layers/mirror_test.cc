// SPDX-License-Identifier: Apache-2.0
//
// Mirror: every change reaches both legs, a leg that fails is given up durably, what one cannot read another repairs.

#include "layers/mirror.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "buse/operations.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/contract.h"
#include "layers/read_only.h"
#include "tests/bad_leg.h"
#include "tests/leaves.h"
#include "tests/mirror_legs.h"

template struct buse::Mirror<buse::testing::Full, buse::testing::Full>;

namespace buse::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Capabilities kBoth = {.write = true, .write_through = true, .trim = true, .write_zeroes = true, .prefetch = true};

static_assert(kCapabilities<Mirror<Full, Full>> == kBoth);
static_assert(kCapabilities<Mirror<Full, Writer>> == Capabilities{.write = true, .prefetch = true});
static_assert(kCapabilities<Mirror<Writer, Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Mirror<Full, Bare>> == Capabilities{.prefetch = true});
static_assert(kCapabilities<Mirror<Bare, Bare>> == kNothing);
static_assert(Mirror<Full, Full512, BasicBare<4096, Concurrency::kParallel>>::kBlockSize == 4096);
static_assert(Mirror<Full, Full>::kConcurrency == Concurrency::kParallel);
static_assert(Mirror<Full, BasicBare<1, Concurrency::kDisjoint>, Full>::kConcurrency == Concurrency::kDisjoint);
static_assert(Mirror<BasicBare<1, Concurrency::kSerial>, Full>::kConcurrency == Concurrency::kSerial);
static_assert(CanFormat<Mirror<Full, Writer>> && CanCheck<Mirror<Full, Writer>>);
static_assert(!CanFormat<Mirror<Full, Bare>> && CanCheck<Mirror<Full, Bare>>);

using Stack = Mirror<Full, Full>;
using State = MirrorLegs::State;

constexpr uint64_t kBitmap = MirrorLayout::kBitmapAt;
constexpr uint64_t kData = kBitmap + 4096;
constexpr uint64_t kSize = 16384;
constexpr uint64_t kLegSize = kData + kSize + 4096;
constexpr uint64_t kRegion = 4096;

template <class M>
absl::Status Format(const typename M::Config& config) {
  return FormatStack<M>(config, [](uint64_t, uint64_t) {});
}

std::vector<std::byte> Pattern(uint64_t size, int seed = 1) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>((i * 7 + i / 512 + seed) % 251 + 1);
  return bytes;
}

// Two legs with four regions.
class MirrorTest : public ::testing::Test {
 protected:
  MirrorTest() {
    EXPECT_EQ(Format<Stack>(Config()), absl::OkStatus());
    Open();
    EXPECT_EQ(Stack::Write(*state_, 0, Pattern(kSize)), absl::OkStatus());
    Flush();
    Flush();
    a_.calls.clear();
    b_.calls.clear();
  }

  Stack::Config Config(bool degraded = false) {
    return {.region_size = kRegion,
            .degraded = degraded,
            .idle_flushes = 2,
            .below = {{.size = kLegSize, .script = &a_}, {.size = kLegSize, .script = &b_}}};
  }
  absl::Status TryOpen(const Stack::Config& config) {
    state_ = std::make_unique<Stack::State>();
    return Stack::Open(config, *state_);
  }
  void Open(bool degraded = false) { EXPECT_EQ(TryOpen(Config(degraded)), absl::OkStatus()); }
  void Flush() { EXPECT_EQ(Stack::Flush(*state_), absl::OkStatus()); }
  State StateOf(size_t leg) const { return Stack::Status(*state_).leg[leg].state; }
  std::vector<std::byte> Read() {
    std::vector<std::byte> bytes(kSize);
    EXPECT_EQ(Stack::Read(*state_, 0, bytes), absl::OkStatus());
    return bytes;
  }
  static std::vector<std::byte> DataOf(const Script& script) {
    return {script.medium.begin() + kData, script.medium.begin() + kData + kSize};
  }

  Script a_;
  Script b_;
  std::unique_ptr<Stack::State> state_;
};

TEST_F(MirrorTest, EveryChangeReachesBothLegsAndItsRegionIsMarkedBefore) {
  const std::array<std::byte, 16> in{};
  EXPECT_EQ(Stack::Size(*state_), kSize);
  EXPECT_TRUE(Stack::Write(*state_, 1, in).ok());
  EXPECT_TRUE(Stack::Write(*state_, 100, in).ok());
  EXPECT_TRUE(Stack::WriteThrough(*state_, kRegion, in).ok());
  EXPECT_TRUE(Stack::Trim(*state_, {4, 5}).ok());
  EXPECT_TRUE(Stack::WriteZeroes(*state_, {6, 7}).ok());
  Flush();
  const std::vector<Call> calls = {{"WriteThrough", {kBitmap, 4096}},
                                   {"Write", {kData + 1, 16}},
                                   {"Write", {kData + 100, 16}},
                                   {"WriteThrough", {kBitmap, 4096}},
                                   {"WriteThrough", {kData + kRegion, 16}},
                                   {"Trim", {kData + 4, 5}},
                                   {"WriteZeroes", {kData + 6, 7}},
                                   {"Flush", {}}};
  EXPECT_EQ(a_.calls, calls);
  EXPECT_EQ(b_.calls, calls);
  EXPECT_EQ(DataOf(a_), DataOf(b_));
}

TEST_F(MirrorTest, AMarkIsClearedSomeFlushesAfterTheLastWrite) {
  const std::array<std::byte, 16> in{};
  EXPECT_TRUE(Stack::Write(*state_, 0, in).ok());
  Flush();
  EXPECT_TRUE(Stack::Write(*state_, 0, in).ok());
  Flush();
  a_.calls.clear();
  Flush();
  const std::vector<Call> cleared = {{"Flush", {}}, {"Write", {kBitmap, 4096}}};
  EXPECT_EQ(a_.calls, cleared) << "behind the flush, and nothing waits for it";
  a_.calls.clear();
  Flush();
  EXPECT_EQ(a_.calls, (std::vector<Call>{{"Flush", {}}}));
  EXPECT_TRUE(Stack::Write(*state_, 0, in).ok());
  EXPECT_EQ(a_.calls[1].operation, "WriteThrough") << "it is marked anew";
}

TEST_F(MirrorTest, AReadGoesToOneLegAndAStreamStaysOnIt) {
  std::vector<std::byte> bytes(512);
  for (uint64_t at = 0; at < 4096; at += 512) EXPECT_TRUE(Stack::Read(*state_, at, bytes).ok());
  EXPECT_TRUE(Stack::Prefetch(*state_, {4096, 512}).ok());
  EXPECT_EQ(a_.calls.size() + b_.calls.size(), 9u);
  EXPECT_TRUE(a_.calls.empty() || b_.calls.empty());
}

TEST(MirrorLegsTest, AReadGoesToTheLegWithTheFewestAndStreamsStay) {
  MirrorLegs legs;
  legs.Open(0b111, 0);
  const MirrorLegs::Reading first(legs, {0, 512});
  const MirrorLegs::Reading second(legs, {100000, 512});
  EXPECT_NE(second.leg(), first.leg());
  const MirrorLegs::Reading third(legs, {50000, 512});
  EXPECT_NE(third.leg(), first.leg());
  EXPECT_NE(third.leg(), second.leg());
  EXPECT_EQ(MirrorLegs::Reading(legs, {100512, 512}).leg(), second.leg());
  EXPECT_EQ(MirrorLegs::Reading(legs, {49000, 512}).leg(), third.leg()) << "the nearest";
  legs.Fail(Leg(third.leg()));
  EXPECT_NE(MirrorLegs::Reading(legs, {50512, 512}).leg(), third.leg());
}

// ---- One leg fails.

const std::vector<std::function<absl::Status(Stack::State&)>> kChanges = {
    [](Stack::State& state) { return Stack::Write(state, 600, Pattern(kRegion, 2)); },
    [](Stack::State& state) { return Stack::WriteThrough(state, 600, Pattern(kRegion, 2)); },
    [](Stack::State& state) {
      return Stack::Trim(state, {600, kRegion});
    },
    [](Stack::State& state) {
      return Stack::WriteZeroes(state, {600, kRegion});
    },
    [](Stack::State& state) { return Stack::Flush(state); },
};

// Fails the Nth call to the leg, then the next one, until none is left.
TEST_F(MirrorTest, WhateverCallToOneLegFailsNobodyNoticesAndItIsGivenUpDurably) {
  const std::vector<std::byte> clean_a = a_.medium;
  const std::vector<std::byte> clean_b = b_.medium;
  for (size_t leg = 0; leg < 2; ++leg) {
    for (const auto& change : kChanges) {
      for (int n = 0;; ++n) {
        a_.medium = clean_a;
        b_.medium = clean_b;
        Open();
        Script& script = leg == 0 ? a_ : b_;
        Script& other = leg == 0 ? b_ : a_;
        script.calls.clear();
        script.fail_at = n;
        EXPECT_EQ(change(*state_), absl::OkStatus());
        const bool fired = script.calls.size() > static_cast<size_t>(n);
        script.fail_at = -1;
        if (!fired) break;
        EXPECT_EQ(StateOf(leg), State::kFailed);
        EXPECT_EQ(StateOf(1 - leg), State::kInSync);
        EXPECT_EQ(Stack::Status(*state_).leg[leg].errors, 1u);
        const std::vector<std::byte> now = DataOf(other);
        EXPECT_EQ(Read(), now);
        // The other leg remembers.
        EXPECT_THAT(TryOpen(Config()).message(), HasSubstr(absl::StrCat("leg ", leg, " of 2 is stale")));
        Open(true);
        EXPECT_EQ(StateOf(leg), State::kRebuilding);
        EXPECT_EQ(Read(), now);
        EXPECT_EQ(*Stack::Rebuild(*state_, 1 << 20), 0u);
        EXPECT_EQ(StateOf(leg), State::kInSync);
        EXPECT_EQ(DataOf(script), now);
        Open();
        ASSERT_LT(n, 100);
      }
    }
  }
}

TEST_F(MirrorTest, AFailedLegIsNotCalledAgain) {
  a_.fail_at = 1;
  EXPECT_TRUE(Stack::Write(*state_, 0, Pattern(512, 3)).ok());
  EXPECT_EQ(StateOf(0), State::kFailed);
  a_.calls.clear();
  for (const auto& change : kChanges) EXPECT_TRUE(change(*state_).ok());
  Read();
  EXPECT_TRUE(a_.calls.empty());
}

// ---- All legs fail.

TEST_F(MirrorTest, WhereAllLegsFailTheErrorIsPassedOnAndNoneIsGivenUp) {
  a_.error = b_.error = absl::ResourceExhaustedError("full");
  const std::vector<std::byte> clean_a = a_.medium;
  const std::vector<std::byte> clean_b = b_.medium;
  for (const auto& change : kChanges) {
    for (int n = 0;; ++n) {
      a_.medium = clean_a;
      b_.medium = clean_b;
      Open();
      a_.calls.clear();
      b_.calls.clear();
      a_.fail_at = b_.fail_at = n;
      const absl::Status status = change(*state_);
      EXPECT_EQ(a_.calls, b_.calls);
      const bool fired = a_.calls.size() > static_cast<size_t>(n);
      a_.fail_at = b_.fail_at = -1;
      EXPECT_EQ(status.code(), fired ? a_.error.code() : absl::StatusCode::kOk);
      if (!fired) break;
      EXPECT_EQ(StateOf(0), State::kInSync);
      EXPECT_EQ(StateOf(1), State::kInSync);
      // They are made the same before they are read.
      const std::vector<std::byte> read = Read();
      EXPECT_EQ(CompareLegs<Stack>(*state_, {0, kSize}), "");
      EXPECT_EQ(Read(), read);
      change(*state_).IgnoreError();  // what is owed
      EXPECT_EQ(change(*state_), absl::OkStatus());
      ASSERT_LT(n, 100);
    }
  }
}

TEST_F(MirrorTest, AFlushThatAMarkSwallowedFailsLater) {
  a_.fail_at = b_.fail_at = 0;
  EXPECT_FALSE(Stack::Write(*state_, 0, Pattern(512)).ok());
  EXPECT_FALSE(Stack::Flush(*state_).ok());
  Flush();
}

// ---- Repair.

using BadMirror = Mirror<BadLeg, BadLeg>;

class BadMirrorTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kFirst = kData / 512;  // sector of the data

  BadMirrorTest() : disks_{BadDisk(kLegSize), BadDisk(kLegSize)} {
    EXPECT_EQ(Format<BadMirror>(Config()), absl::OkStatus());
    Open();
    EXPECT_EQ(BadMirror::Write(*state_, 0, Pattern(kSize)), absl::OkStatus());
    EXPECT_EQ(BadMirror::Flush(*state_), absl::OkStatus());
  }
  BadMirror::Config Config(bool degraded = false) {
    return {
        .region_size = kRegion, .degraded = degraded, .idle_flushes = 1, .below = {{.disk = &disks_[0]}, {.disk = &disks_[1]}}};
  }
  absl::Status TryOpen(bool degraded = false) {
    state_ = std::make_unique<BadMirror::State>();
    return BadMirror::Open(Config(degraded), *state_);
  }
  void Open(bool degraded = false) { EXPECT_EQ(TryOpen(degraded), absl::OkStatus()); }
  void ExpectPattern() {
    std::vector<std::byte> bytes(kSize);
    EXPECT_EQ(BadMirror::Read(*state_, 0, bytes), absl::OkStatus());
    EXPECT_EQ(bytes, Pattern(kSize));
  }
  std::vector<std::string> Checked() {
    std::vector<std::string> said;
    const CheckReport report = {
        .damaged = [&](Range range,
                       absl::string_view why) { said.push_back(absl::StrCat(range.offset, "+", range.length, " ", why)); },
        .flawed = [&](absl::string_view what) { said.push_back(absl::StrCat("flaw: ", what)); },
        .progress = [](uint64_t, uint64_t) {}};
    EXPECT_EQ(BadMirror::Check(*state_, report), absl::OkStatus());
    return said;
  }
  State StateOf(size_t leg) const { return BadMirror::Status(*state_).leg[leg].state; }

  std::array<BadDisk, 2> disks_;
  std::unique_ptr<BadMirror::State> state_;
};

TEST_F(BadMirrorTest, WhatOneLegCannotReadIsRepairedFromTheOther) {
  disks_[0].rotten[kFirst + 3] = true;
  ExpectPattern();
  EXPECT_FALSE(disks_[0].rotten[kFirst + 3]);
  EXPECT_EQ(BadMirror::Status(*state_).repaired, 4096u) << "the page around it";
  EXPECT_EQ(BadMirror::Status(*state_).leg[0].errors, 1u);
  EXPECT_EQ(StateOf(0), State::kInSync);
}

TEST_F(BadMirrorTest, EachBlockThatAnyLegHasIsRead) {
  for (size_t i = 0; i < kSize / 512; ++i) disks_[i % 2].rotten[kFirst + i] = true;
  ExpectPattern();
  EXPECT_EQ(BadMirror::Status(*state_).repaired, kSize / 2) << "what was read of the other leg is well";
  EXPECT_EQ(*BadMirror::Scrub(*state_, 1 << 20), 0u);
  EXPECT_EQ(Checked(), std::vector<std::string>());
  EXPECT_EQ(StateOf(0), State::kInSync);
  EXPECT_EQ(StateOf(1), State::kInSync);
}

TEST_F(BadMirrorTest, WhatNoLegHasIsAnErrorAndItsNeighboursAreRead) {
  disks_[0].rotten[kFirst + 3] = disks_[1].rotten[kFirst + 3] = true;
  std::vector<std::byte> bytes(512);
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(BadMirror::Read(*state_, i * 512, bytes).code(), i == 3 ? absl::StatusCode::kDataLoss : absl::StatusCode::kOk);
  }
  EXPECT_THAT(Checked(), ElementsAre("1536+512 no leg can read it: rotten"));
  EXPECT_EQ(BadMirror::Scrub(*state_, 1 << 20).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(BadMirror::Write(*state_, 1536, bytes), absl::OkStatus());
  EXPECT_EQ(BadMirror::Read(*state_, 1536, bytes), absl::OkStatus());
  EXPECT_EQ(*BadMirror::Scrub(*state_, 1 << 20), 0u);
}

TEST_F(BadMirrorTest, ALegThatCannotBeRepairedIsGivenUpDurably) {
  disks_[0].fails_one_in = 1;
  ExpectPattern();
  EXPECT_EQ(StateOf(0), State::kFailed);
  disks_[0].fails_one_in = 0;
  EXPECT_THAT(TryOpen().message(), HasSubstr("leg 0 of 2 is stale"));
}

TEST_F(BadMirrorTest, AScrubFindsWhatNobodyReadsAndWhatDiffers) {
  disks_[1].rotten[kFirst + 5] = true;
  disks_[1].sectors[kFirst + 9][0] ^= std::byte{1};
  EXPECT_THAT(Checked(),
              ElementsAre("4608+512 leg 1 differs from leg 0",
                          "flaw: leg 1: 512 bytes cannot be read that another leg has, the first: rotten; reading or "
                          "scrubbing repairs them"));
  EXPECT_EQ(*BadMirror::Scrub(*state_, 1), 0u) << "a chunk is more than that";
  EXPECT_EQ(BadMirror::Status(*state_).repaired, 4096u);
  EXPECT_EQ(BadMirror::Status(*state_).mismatched, 4096u);
  EXPECT_EQ(Checked(), std::vector<std::string>());
}

TEST_F(BadMirrorTest, DamagedMetadataIsAFlawAndIsSurvived) {
  disks_[0].rotten[0] = disks_[0].rotten[4096 / 512] = disks_[1].rotten[kBitmap / 512] = true;
  EXPECT_THAT(Checked(), ElementsAre(HasSubstr("leg 0: the superblock at offset 0 is damaged"),
                                     "flaw: leg 0: the head at offset 4096 is damaged",
                                     "flaw: leg 1: the bitmap at offset 12288 is damaged"));
  Open();
  ExpectPattern();
  EXPECT_FALSE(disks_[0].rotten[4096 / 512]) << "a head is written anew";
  EXPECT_THAT(Checked(), ElementsAre(AllOf(HasSubstr("leg 0: the superblock at offset 0 is damaged")),
                                     "flaw: leg 1: the bitmap at offset 12288 is damaged"));
}

TEST_F(BadMirrorTest, WithoutAnyBitmapEverythingIsInDoubt) {
  disks_[0].rotten[kBitmap / 512] = disks_[1].rotten[kBitmap / 512] = true;
  Open();
  EXPECT_EQ(BadMirror::Status(*state_).bytes_to_resync, kSize);
  ExpectPattern();
}

// ---- After an unclean stop.

TEST_F(BadMirrorTest, RegionsThatWereBeingWrittenReadTheSameTwiceAndAreResynchronised) {
  const std::vector<std::byte> in = Pattern(512, 9);
  EXPECT_TRUE(BadMirror::Write(*state_, kRegion, in).ok());
  // Only the second leg had it on its medium.
  disks_[0].sectors[kFirst + kRegion / 512] = disks_[0].unflushed[kFirst + kRegion / 512];
  disks_[1].sectors[kFirst + kRegion / 512 + 1][5] ^= std::byte{1};
  Open();
  EXPECT_EQ(BadMirror::Status(*state_).bytes_to_resync, kRegion);
  std::vector<std::byte> read(512);
  EXPECT_TRUE(BadMirror::Read(*state_, kRegion, read).ok());
  // The first leg goes; what was read stays.
  disks_[0].dead = true;
  for (int i = 0; i < 5; ++i) {
    std::vector<std::byte> again(512);
    EXPECT_TRUE(BadMirror::Read(*state_, kRegion, again).ok());
    EXPECT_EQ(again, read);
  }
  disks_[0].dead = false;
  Open(true);
  EXPECT_EQ(*BadMirror::Rebuild(*state_, 1 << 20), 0u);
  EXPECT_EQ(Checked(), std::vector<std::string>());
}

TEST_F(BadMirrorTest, AFlushResynchronisesInPassing) {
  EXPECT_TRUE(BadMirror::Write(*state_, kRegion, Pattern(512)).ok());
  disks_[1].sectors[kFirst + kRegion / 512] = {};
  Open();
  EXPECT_NE(BadMirror::Status(*state_).bytes_to_resync, 0u);
  EXPECT_TRUE(BadMirror::Flush(*state_).ok());
  EXPECT_EQ(BadMirror::Status(*state_).bytes_to_resync, 0u);
  EXPECT_EQ(disks_[0].sectors[kFirst + kRegion / 512], disks_[1].sectors[kFirst + kRegion / 512]);
}

// ---- Open.

TEST_F(BadMirrorTest, AStaleLegIsRebuiltInStepsBesideChanges) {
  disks_[1].missing = true;
  EXPECT_THAT(TryOpen().message(), HasSubstr("leg 1 of 2 is missing (missing): use --degraded to go on without it"));
  Open(true);
  EXPECT_EQ(BadMirror::Status(*state_).bytes_to_rebuild, 0u) << "there is nothing to write to";
  EXPECT_TRUE(BadMirror::Write(*state_, 0, Pattern(kSize)).ok());
  EXPECT_TRUE(BadMirror::Flush(*state_).ok());
  disks_[1].missing = false;
  EXPECT_THAT(TryOpen().message(),
              HasSubstr("leg 1 of 2 is stale: it failed at event 2, the others are at event 2, and it knows nothing later than "
                        "event 1. Use --degraded"));
  for (auto& sector : disks_[1].sectors) {
    if (&sector >= &disks_[1].sectors[kFirst] && &sector < &disks_[1].sectors[kFirst + kSize / 512]) sector = {};
  }
  Open(true);
  EXPECT_EQ(StateOf(1), State::kRebuilding);
  EXPECT_EQ(BadMirror::Status(*state_).bytes_to_rebuild, kSize);
  EXPECT_EQ(*BadMirror::Rebuild(*state_, 1), kSize - kRegion) << "a chunk, which ends with a region";
  EXPECT_TRUE(BadMirror::Write(*state_, 0, Pattern(1024, 5)).ok());
  EXPECT_TRUE(BadMirror::Write(*state_, kSize - 512, Pattern(512, 5)).ok());
  EXPECT_EQ(StateOf(1), State::kRebuilding);
  EXPECT_EQ(*BadMirror::Rebuild(*state_, 1 << 20), 0u);
  EXPECT_EQ(StateOf(1), State::kInSync);
  EXPECT_EQ(CompareLegs<BadMirror>(*state_, {0, kSize}), "");
  Open();
}

TEST_F(BadMirrorTest, WhatNoLegCanReadKeepsAStaleLegFromBecomingInSync) {
  disks_[1].missing = true;
  Open(true);
  disks_[1].missing = false;
  disks_[0].rotten[kFirst + 3] = true;
  Open(true);
  EXPECT_EQ(BadMirror::Rebuild(*state_, 1 << 20).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(StateOf(1), State::kRebuilding);
  EXPECT_TRUE(BadMirror::Write(*state_, 1536, Pattern(512)).ok());
  EXPECT_EQ(*BadMirror::Rebuild(*state_, 1 << 20), 0u);
  EXPECT_EQ(StateOf(1), State::kInSync);
}

TEST_F(BadMirrorTest, LegsThatWereChangedApartAreRefused) {
  for (size_t leg = 0; leg < 2; ++leg) {
    disks_[leg].missing = true;
    Open(true);
    EXPECT_TRUE(BadMirror::Write(*state_, 0, Pattern(512, static_cast<int>(leg))).ok());
    disks_[leg].missing = false;
  }
  EXPECT_THAT(TryOpen(true).message(),
              AllOf(HasSubstr("changed apart from each other"), HasSubstr("leg 0 (event 2) has leg 0 in sync since event 0"),
                    HasSubstr("leg 1 (event 2) has leg 0 failed since event 2")));
}

TEST_F(BadMirrorTest, ALegWhoseHeadsAreBothDamagedMayKnowMoreAndIsRefused) {
  disks_[1].rotten[4096 / 512] = disks_[1].rotten[8192 / 512] = true;
  EXPECT_THAT(TryOpen(true).message(), HasSubstr("leg 1 of 2 has no head that can be read, and may know of writes"));
  disks_[1].missing = true;
  Open(true);
  disks_[1].missing = false;
  Open(true);
  EXPECT_EQ(*BadMirror::Rebuild(*state_, 1 << 20), 0u);
  Open();
}

TEST_F(BadMirrorTest, WithoutAnyLegThereIsNoMirror) {
  disks_[0].missing = disks_[1].missing = true;
  EXPECT_EQ(TryOpen(true), absl::FailedPreconditionError("mirror: no leg can be used, the first one: missing"));
  disks_[0].missing = disks_[1].missing = false;
  for (BadDisk& disk : disks_) disk.rotten[4096 / 512] = disk.rotten[8192 / 512] = true;
  EXPECT_EQ(TryOpen(true).code(), absl::StatusCode::kDataLoss);
}

// ---- Replacing a leg.

TEST_F(BadMirrorTest, ALegIsReplacedWhileItIsUsed) {
  const std::vector<std::byte> all = Pattern(kSize);
  BadDisk spare(kLegSize);
  EXPECT_THAT(BadMirror::Replace<1>(*state_, {&spare}).message(), HasSubstr("leg 1 is in use"));
  EXPECT_EQ(BadMirror::Fail(*state_, 1), absl::OkStatus());
  EXPECT_EQ(StateOf(1), State::kFailed);
  EXPECT_EQ(BadMirror::Status(*state_).may_fail, 0u);
  EXPECT_THAT(BadMirror::Fail(*state_, 0).message(), HasSubstr("the only one that has everything"));
  EXPECT_EQ(BadMirror::Replace<1>(*state_, {&spare}), absl::OkStatus());
  EXPECT_EQ(StateOf(1), State::kRebuilding);
  EXPECT_EQ(BadMirror::Status(*state_).leg[1].errors, 0u);
  EXPECT_EQ(BadMirror::Status(*state_).bytes_to_rebuild, kSize);
  EXPECT_EQ(BadMirror::Write(*state_, 512, Pattern(512, 3)), absl::OkStatus());
  EXPECT_EQ(BadMirror::Write(*state_, 512, ConstBytes(all).subspan(512, 512)), absl::OkStatus());
  EXPECT_EQ(*BadMirror::Rebuild(*state_, 1 << 20), 0u);
  EXPECT_EQ(StateOf(1), State::kInSync);
  EXPECT_EQ(BadMirror::Status(*state_).may_fail, 1u);
  EXPECT_EQ(Checked(), std::vector<std::string>());
  // The other one is not needed any more.
  disks_[0].dead = true;
  ExpectPattern();
  disks_[0].dead = false;
  std::swap(disks_[1], spare);
  Open(true);
  EXPECT_EQ(StateOf(1), State::kInSync);
  EXPECT_EQ(BadMirror::Write(*state_, 0, Pattern(kSize, 2)), absl::OkStatus());
  EXPECT_EQ(BadMirror::Flush(*state_), absl::OkStatus());
  // The one that was replaced is of the set, never failed as far as it knows, and has no say.
  std::swap(disks_[1], spare);
  EXPECT_THAT(TryOpen().message(), HasSubstr("leg 1 of 2 is stale: it is not the medium that is known to be in sync"));
  Open(true);
  EXPECT_EQ(StateOf(1), State::kRebuilding);
  std::vector<std::byte> bytes(kSize);
  EXPECT_EQ(BadMirror::Read(*state_, 0, bytes), absl::OkStatus());
  EXPECT_EQ(bytes, Pattern(kSize, 2));
  EXPECT_EQ(*BadMirror::Rebuild(*state_, 1 << 20), 0u);
  Open();
  EXPECT_EQ(Checked(), std::vector<std::string>());
}

TEST_F(BadMirrorTest, AReplacementMayHoldAnythingWhereTheCallerSaysSo) {
  BadDisk spare(kLegSize);
  for (BadDisk::Sector& sector : spare.sectors) sector.fill(std::byte{0xe5});
  EXPECT_EQ(BadMirror::Fail(*state_, 0), absl::OkStatus());
  EXPECT_EQ(BadMirror::Replace<0>(*state_, {&spare}), absl::OkStatus());
  EXPECT_EQ(*BadMirror::Rebuild(*state_, 1 << 20), 0u);
  EXPECT_EQ(CompareLegs<BadMirror>(*state_, {0, kSize}), "");
  std::swap(disks_[0], spare);
  Open();
  ExpectPattern();
  EXPECT_EQ(Checked(), std::vector<std::string>());
}

TEST_F(BadMirrorTest, ALegThatIsReplacedWhileItIsRebuiltIsRebuiltFromTheBeginning) {
  BadDisk first(kLegSize), second(kLegSize);
  EXPECT_EQ(BadMirror::Fail(*state_, 1), absl::OkStatus());
  EXPECT_EQ(BadMirror::Replace<1>(*state_, {&first}), absl::OkStatus());
  EXPECT_EQ(*BadMirror::Rebuild(*state_, kSize / 2), kSize / 2);
  EXPECT_EQ(BadMirror::Fail(*state_, 1), absl::OkStatus());
  EXPECT_EQ(BadMirror::Replace<1>(*state_, {&second}), absl::OkStatus());
  EXPECT_EQ(BadMirror::Status(*state_).bytes_to_rebuild, kSize);
  EXPECT_EQ(*BadMirror::Rebuild(*state_, 1 << 20), 0u);
  EXPECT_EQ(CompareLegs<BadMirror>(*state_, {0, kSize}), "");
  EXPECT_EQ(BadMirror::Fail(*state_, 0), absl::OkStatus());
  ExpectPattern();
}

TEST_F(BadMirrorTest, AReplacementThatIsTooSmallOrFailsIsRefusedAndTheNextIsTaken) {
  BadDisk small(kLegSize - 4096), dead(kLegSize), spare(kLegSize);
  dead.dead = true;
  EXPECT_EQ(BadMirror::Fail(*state_, 1), absl::OkStatus());
  EXPECT_THAT(BadMirror::Replace<1>(*state_, {&small}).message(),
              HasSubstr(absl::StrCat("what is to replace leg 1 has ", kLegSize - 4096, " bytes, and needs ", kLegSize)));
  EXPECT_EQ(StateOf(1), State::kFailed);
  EXPECT_FALSE(BadMirror::Replace<1>(*state_, {&dead}).ok());
  EXPECT_EQ(StateOf(1), State::kFailed);
  ExpectPattern();
  EXPECT_EQ(BadMirror::Replace<1>(*state_, {&spare}), absl::OkStatus());
  EXPECT_EQ(*BadMirror::Rebuild(*state_, 1 << 20), 0u);
  EXPECT_EQ(StateOf(1), State::kInSync);
}

TEST_F(BadMirrorTest, AnEmptyMediumReplacesALegThatIsNamed) {
  const auto replace = [&](const std::string& leg) {
    state_ = std::make_unique<BadMirror::State>();
    BadMirror::Config config = Config();
    config.replace_leg = leg;
    return BadMirror::Open(config, *state_);
  };
  EXPECT_THAT(replace("2").message(), HasSubstr("there is no leg \"2\" to replace: give a number from 0 to 1"));
  EXPECT_THAT(replace("one").message(), HasSubstr("there is no leg \"one\""));
  disks_[1] = BadDisk(kLegSize);
  for (BadDisk::Sector& sector : disks_[1].sectors) sector.fill(std::byte{0xe5});
  EXPECT_THAT(replace("1").message(), HasSubstr("what is to replace leg 1 holds"));
  disks_[1] = BadDisk(kLegSize);
  EXPECT_THAT(TryOpen(true).message(), HasSubstr("the medium was never formatted"));
  EXPECT_EQ(replace("1"), absl::OkStatus());
  EXPECT_EQ(StateOf(1), State::kRebuilding);
  ExpectPattern();
  // Cut off, it begins again with the same command.
  EXPECT_EQ(*BadMirror::Rebuild(*state_, kSize / 2), kSize / 2);
  EXPECT_EQ(replace("1"), absl::OkStatus());
  EXPECT_EQ(StateOf(1), State::kRebuilding);
  EXPECT_EQ(BadMirror::Status(*state_).bytes_to_rebuild, kSize);
  EXPECT_EQ(*BadMirror::Rebuild(*state_, 1 << 20), 0u);
  // And when it is done, the command does nothing.
  EXPECT_EQ(replace("1"), absl::OkStatus());
  EXPECT_EQ(StateOf(1), State::kInSync);
  EXPECT_EQ(Checked(), std::vector<std::string>());
}

TEST_F(MirrorTest, WhatBelongsNotTogetherIsRefused) {
  std::swap(a_.medium, b_.medium);
  EXPECT_THAT(TryOpen(Config(true)).message(), HasSubstr("leg 1 of 2, but is given as leg 0"));
  std::swap(a_.medium, b_.medium);
  Script other_a;
  Script other_b;
  const Stack::Config other = {.below = {{.size = kLegSize, .script = &other_a}, {.size = kLegSize, .script = &other_b}}};
  EXPECT_EQ(Format<Stack>(other), absl::OkStatus());
  const Stack::Config mixed = {.below = {{.size = kLegSize, .script = &a_}, {.size = kLegSize, .script = &other_b}}};
  EXPECT_THAT(TryOpen(mixed).message(), HasSubstr("belongs to the set"));
  const Stack::Config larger = {.below = {{.size = kLegSize, .script = &a_}, {.size = kLegSize + 4096, .script = &b_}}};
  EXPECT_THAT(TryOpen(larger).message(), HasSubstr("but had"));
  using Three = Mirror<Full, Full, Full>;
  const Three::Config three = {.below = {{.size = kLegSize, .script = &a_}, {.size = kLegSize + 4096, .script = &b_}, {}}};
  EXPECT_THAT(Three::Open(three, *std::make_unique<Three::State>()).message(), HasSubstr("mirror[2]"));
}

TEST_F(MirrorTest, LegsThatCannotBeWrittenAreRead) {
  using M = Mirror<ReadOnly<Full>, ReadOnly<Full>>;
  const auto shared = [&](Script& script) { return ReadOnly<Full>::Config{.below = {.size = kLegSize, .script = &script}}; };
  M::Config config;
  std::get<0>(config.below) = shared(a_);
  std::get<1>(config.below) = shared(b_);
  // The formats differ in nothing.
  auto state = std::make_unique<M::State>();
  ASSERT_EQ(M::Open(config, *state), absl::OkStatus());
  EXPECT_FALSE(buse::Writable<M>(*state));
  std::vector<std::byte> bytes(kSize);
  EXPECT_EQ(M::Read(*state, 0, bytes), absl::OkStatus());
  EXPECT_EQ(bytes, Pattern(kSize));
  a_.calls.clear();
  a_.fail_at = 0;
  EXPECT_EQ(M::Read(*state, 0, bytes), absl::OkStatus());
  EXPECT_EQ(bytes, Pattern(kSize));
  for (const Call& call : a_.calls) EXPECT_EQ(call.operation, "Read");
  for (const Call& call : b_.calls) EXPECT_EQ(call.operation, "Read");
}

// ---- Format.

TEST(MirrorFormatTest, TheLegsMayDifferInSizeAndTheSmallestCounts) {
  Script a;
  Script b;
  const Stack::Config config = {.below = {{.size = kLegSize + 10000, .script = &a}, {.size = kLegSize, .script = &b}}};
  EXPECT_EQ(Format<Stack>(config), absl::OkStatus());
  auto state = std::make_unique<Stack::State>();
  EXPECT_EQ(Stack::Open(config, *state), absl::OkStatus());
  EXPECT_EQ(Stack::Size(*state), kSize);
}

TEST(MirrorFormatTest, OneThatFailsLeavesNothingThatOpens) {
  for (int n = 0;; ++n) {
    Script a;
    Script b;
    const Stack::Config config = {.below = {{.size = kLegSize, .script = &a}, {.size = kLegSize, .script = &b}}};
    EXPECT_EQ(Format<Stack>(config), absl::OkStatus());
    a.calls.clear();
    a.fail_at = n;
    const absl::Status status = Format<Stack>(config);
    const bool fired = a.calls.size() > static_cast<size_t>(n);
    a.fail_at = -1;
    EXPECT_EQ(status.code(), fired ? a.error.code() : absl::StatusCode::kOk);
    if (!fired) break;
    // The first call is that which takes the old superblock away, and the last that which makes the new one durable.
    const absl::Status opened = Stack::Open(config, *std::make_unique<Stack::State>());
    EXPECT_TRUE(!opened.ok() || n == 0 || a.calls.back().operation == "Flush") << n;
    ASSERT_LT(n, 100);
  }
}

TEST(MirrorFormatTest, WhatMakesNoSenseIsRefused) {
  EXPECT_THAT(LayOutMirror(20000, 0, 512).status().message(), HasSubstr("need 24576: make it larger"));
  EXPECT_THAT(LayOutMirror(1 << 20, 3000, 512).status().message(), HasSubstr("3000 bytes is no power of two of at least 512"));
  EXPECT_THAT(LayOutMirror(1 << 20, 512, 4096).status().message(), HasSubstr("512 bytes is no power of two of at least 4096"));
  EXPECT_THAT(LayOutMirror(uint64_t{1} << 40, 4096, 512).status().message(), HasSubstr("is the limit"));
  EXPECT_EQ(LayOutMirror(24576, 512, 512).status(), absl::OkStatus());
}

TEST(MirrorFormatTest, TheDefaultKeepsTheBitmapInAPage) {
  for (int bits = 20; bits < 63; ++bits) {
    for (const uint64_t more : {uint64_t{0}, uint64_t{4096}, (uint64_t{1} << bits) - 1}) {
      const uint64_t leg = (uint64_t{1} << bits) + more;
      const MirrorLayout layout = *LayOutMirror(leg, 0, 512);
      EXPECT_EQ(layout.pages, 1u);
      EXPECT_LE(layout.regions(), MirrorLayout::kPageRegions);
      EXPECT_TRUE(layout.region == MirrorLayout::kDefaultRegion || layout.regions() > MirrorLayout::kPageRegions / 2 - 1);
      EXPECT_LE(layout.data + layout.size, SuperblockCopyAt(leg));
    }
  }
}

TEST(MirrorFormatTest, AHeadAndABitmapAreBoundToTheirLeg) {
  const Uuid uuid = NewUuid();
  MirrorHead head = {.event = 77, .legs = 3};
  head.leg[1] = {.since = 76, .failed = true};
  MirrorPage page;
  EncodeMirrorHead(head, uuid, page);
  EXPECT_EQ(DecodeMirrorHead(page, uuid), head);
  EXPECT_FALSE(DecodeMirrorHead(page, NewUuid()).has_value());
  for (size_t at = 0; at < 512; ++at) {
    page[at] ^= std::byte{0x10};
    EXPECT_FALSE(DecodeMirrorHead(page, uuid).has_value()) << at;
    page[at] ^= std::byte{0x10};
  }
  std::vector<uint64_t> words(MirrorLayout::kPageWords);
  for (size_t i = 0; i < words.size(); ++i) words[i] = i * 0x9e3779b97f4a7c15;
  EncodeMirrorBits(words, uuid, 5, page);
  std::vector<uint64_t> decoded(words.size());
  EXPECT_EQ(DecodeMirrorBits(page, uuid, 5, decoded), 0xff);
  EXPECT_EQ(decoded, words);
  EXPECT_EQ(DecodeMirrorBits(page, uuid, 6, decoded), 0);
  page[600] ^= std::byte{1};
  std::fill(decoded.begin(), decoded.end(), 0);
  const uint8_t sound = DecodeMirrorBits(page, uuid, 5, decoded);
  EXPECT_EQ(sound, 0xfd);
  SetUnsoundMirrorBits(sound, decoded);
  for (size_t i = 0; i < words.size(); ++i) EXPECT_EQ(words[i] & ~decoded[i], 0u) << i;
  EXPECT_EQ(decoded[70], ~uint64_t{0});
  EXPECT_EQ(decoded[200], words[200]);
}

// ---- Threads. The leaves copy without locks, so that ThreadSanitizer sees any two calls that should not meet.

TEST_F(MirrorTest, ThreadsThatReadWriteScrubAndFlushDoNotMeet) {
  static constexpr uint64_t kEach = kSize / 4;
  std::atomic<int> writers = 4;
  std::vector<std::thread> threads;
  const auto write = [&](uint64_t number) {
    std::vector<std::byte> read(512);
    for (int i = 0; i < 200; ++i) {
      // Regions are shared by two threads.
      const uint64_t at = number * kEach + (kEach / 2 + i * 512) % kEach;
      const std::vector<std::byte> in = Pattern(512, i);
      EXPECT_EQ(Stack::Write(*state_, at, in), absl::OkStatus());
      EXPECT_EQ(Stack::Read(*state_, at, read), absl::OkStatus());
      EXPECT_EQ(read, in);
    }
    --writers;
  };
  for (uint64_t i = 0; i < 4; ++i) threads.emplace_back(write, i);
  threads.emplace_back([&] {
    while (writers > 0) EXPECT_TRUE(Stack::Scrub(*state_, 4096).ok());
  });
  threads.emplace_back([&] {
    while (writers > 0) EXPECT_EQ(Stack::Flush(*state_), absl::OkStatus());
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Stack::Status(*state_).mismatched, 0u);
  EXPECT_EQ(DataOf(a_), DataOf(b_));
}

TEST_F(MirrorTest, ThreadsGoOnWhileALegFailsAndWhileItIsRebuilt) {
  for (int round = 0; round < 4; ++round) {
    std::atomic<int> writers = 3;
    std::vector<std::thread> threads;
    const auto write = [&](uint64_t number) {
      std::vector<std::byte> read(512);
      for (int i = 0; i < 60; ++i) {
        const uint64_t at = (number * 7 + i) % (kSize / 1536) * 1536 + number * 512;
        const std::vector<std::byte> in = Pattern(512, i);
        EXPECT_EQ(Stack::Write(*state_, at, in), absl::OkStatus());
        EXPECT_EQ(Stack::Read(*state_, at, read), absl::OkStatus());
        EXPECT_EQ(read, in);
        EXPECT_TRUE(i % 8 != 0 || Stack::Flush(*state_).ok());
      }
      --writers;
    };
    {
      std::lock_guard lock(a_.mutex);
      a_.fail_at = static_cast<int64_t>(a_.calls.size()) + 40 * round + 1;
    }
    for (uint64_t i = 0; i < 3; ++i) threads.emplace_back(write, i);
    threads.emplace_back([&] {
      while (writers > 0) EXPECT_TRUE(Stack::Rebuild(*state_, 4096).ok());
    });
    for (std::thread& thread : threads) thread.join();
    a_.fail_at = -1;
    Open(true);
    EXPECT_EQ(*Stack::Rebuild(*state_, 1 << 20), 0u);
    EXPECT_EQ(DataOf(a_), DataOf(b_));
  }
}

TEST_F(MirrorTest, ThreadsGoOnWhileALegIsReplaced) {
  std::array<Script, 4> spares;
  std::atomic<int> writers = 3;
  std::vector<std::thread> threads;
  const auto write = [&](uint64_t number) {
    std::vector<std::byte> read(512);
    for (int i = 0; i < 300; ++i) {
      const uint64_t at = (number * 7 + i) % (kSize / 1536) * 1536 + number * 512;
      const std::vector<std::byte> in = Pattern(512, i);
      EXPECT_EQ(Stack::Write(*state_, at, in), absl::OkStatus());
      EXPECT_EQ(Stack::Prefetch(*state_, {at, 512}), absl::OkStatus());
      EXPECT_EQ(Stack::Read(*state_, at, read), absl::OkStatus());
      EXPECT_EQ(read, in);
      EXPECT_TRUE(i % 8 != 0 || Stack::Flush(*state_).ok());
    }
    --writers;
  };
  for (uint64_t i = 0; i < 3; ++i) threads.emplace_back(write, i);
  threads.emplace_back([&] {
    while (writers > 0) {
      EXPECT_TRUE(Stack::Rebuild(*state_, 4096).ok());
      EXPECT_TRUE(Stack::Scrub(*state_, 4096).ok());
    }
  });
  for (Script& spare : spares) {
    EXPECT_EQ(Stack::Fail(*state_, 0), absl::OkStatus());
    EXPECT_EQ(Stack::Replace<0>(*state_, {.size = kLegSize, .script = &spare}), absl::OkStatus());
    while (Stack::Status(*state_).leg[0].state != State::kInSync) EXPECT_TRUE(Stack::Rebuild(*state_, 4096).ok());
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(*Stack::Rebuild(*state_, 1 << 20), 0u);
  EXPECT_EQ(Stack::Status(*state_).mismatched, 0u);
  EXPECT_EQ(DataOf(spares.back()), DataOf(b_));
}

// ---- In a sandwich.

TEST(MirrorContractTest, ItKeepsTheContractAboveAndBelow) {
  using M = Contract<Mirror<Contract<Full512>, Contract<BasicWriter<512, Concurrency::kParallel>>>>;
  Script a;
  Script b;
  M::Config config;
  std::get<0>(config.below.below).below = {.size = kLegSize, .script = &a};
  std::get<1>(config.below.below).below = {.size = kLegSize, .script = &b};
  EXPECT_EQ(FormatStack<M>(config, [](uint64_t, uint64_t) {}), absl::OkStatus());
  auto state = std::make_unique<M::State>();
  EXPECT_EQ(M::Open(config, *state), absl::OkStatus());
  EXPECT_EQ(M::Write(*state, 512, Pattern(4096)), absl::OkStatus());
  EXPECT_EQ(M::Flush(*state), absl::OkStatus());
  std::vector<std::byte> bytes(4096);
  EXPECT_EQ(M::Read(*state, 512, bytes), absl::OkStatus());
  EXPECT_EQ(bytes, Pattern(4096));
}

}  // namespace
}  // namespace buse::testing
