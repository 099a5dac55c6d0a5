// SPDX-License-Identifier: Apache-2.0
//
// Parity: what is written where and in which order, which legs are taken and which are refused, what is repaired and what is not.

#include "layers/parity.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/file_backed.h"
#include "tests/bad_leg.h"
#include "tests/leaves.h"

template struct buse::Parity<2, 1, buse::testing::Full>;

namespace buse::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

static_assert(kCapabilities<Parity<2, 1, Full>> == Capabilities{.write = true});
static_assert(kCapabilities<Parity<4, 2, Writer>> == Capabilities{.write = true});
static_assert(Parity<2, 1, Full>::kBlockSize == 512);
static_assert(Parity<2, 1, BasicFull<4096, Concurrency::kParallel>>::kBlockSize == 4096);
static_assert(Parity<2, 1, Full>::kConcurrency == Concurrency::kParallel);
static_assert(Parity<2, 1, BasicFull<1, Concurrency::kDisjoint>>::kConcurrency == Concurrency::kSerial);
static_assert(CanFormat<Parity<2, 1, Full>> && CanCheck<Parity<2, 1, Full>>);

constexpr uint64_t kChunk = 4096;
constexpr uint64_t kLog = ParityLayout::kSlots * ParityLayout::kLeastSlot;
constexpr uint64_t kData = ParityLayout::kLogAt + kLog;
constexpr uint64_t kStripes = 3;
constexpr uint64_t kDisk = kData + kStripes * kChunk + Superblock::kBytes;
constexpr uint64_t kSector = BadDisk::kSector;

// Three legs of data and two of parity.
class ParityTest : public ::testing::Test {
 protected:
  static constexpr size_t kLegs = 5;
  using P = Parity<3, 2, BadLeg, kChunk>;
  static constexpr uint64_t kSize = 3 * kStripes * kChunk;

  ParityTest() {
    for (size_t leg = 0; leg < kLegs; ++leg) disks_.push_back(std::make_unique<BadDisk>(kDisk));
    EXPECT_EQ(Format(), absl::OkStatus());
    EXPECT_EQ(Open(), absl::OkStatus());
    EXPECT_EQ(P::Size(*state_), kSize);
    for (size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<std::byte>((i * 7 + i / 512) % 251 + 1);
    EXPECT_EQ(P::Write(*state_, 0, bytes_), absl::OkStatus());
    EXPECT_EQ(P::Flush(*state_), absl::OkStatus());
  }

  P::Config Config(bool degraded) {
    return {.log = kLog,
            .stage = ParitySet::kLeastStage,
            .degraded = degraded,
            .flush_step = 0,
            .below = {{disks_[0].get()}, {disks_[1].get()}, {disks_[2].get()}, {disks_[3].get()}, {disks_[4].get()}}};
  }
  absl::Status Format() {
    return FormatStack<P>(Config(false), [](uint64_t, uint64_t) {});
  }
  absl::Status Open(bool degraded = false) {
    state_ = std::make_unique<P::State>();
    return P::Open(Config(degraded), *state_);
  }
  ParityLegs::State StateOf(size_t leg) const { return P::Status(*state_).leg[leg].state; }
  void ExpectRight() {
    std::vector<std::byte> read(kSize);
    EXPECT_EQ(P::Read(*state_, 0, read), absl::OkStatus());
    EXPECT_TRUE(read == bytes_);
  }
  void Write(uint64_t offset, uint64_t length, std::byte value) {
    std::fill_n(bytes_.begin() + offset, length, value);
    EXPECT_EQ(P::Write(*state_, offset, ConstBytes(bytes_).subspan(offset, length)), absl::OkStatus());
  }
  void RebuildAll() {
    while (*P::Rebuild(*state_, 4096) != 0) {
    }
  }
  uint64_t SectorOfData(uint64_t stripe, uint64_t at) const { return (kData + stripe * kChunk + at) / kSector; }

  std::vector<std::unique_ptr<BadDisk>> disks_;
  std::unique_ptr<P::State> state_;
  std::vector<std::byte> bytes_ = std::vector<std::byte>(kSize);
};

TEST_F(ParityTest, ElementsRotateOverTheLegs) {
  // Of stripe 1 the first element lies on leg 1, the second on leg 2.
  for (size_t element = 0; element < 3; ++element) {
    const BadDisk::Sector& sector = disks_[(element + 1) % kLegs]->sectors[SectorOfData(1, 0)];
    EXPECT_TRUE(std::equal(sector.begin(), sector.end(), bytes_.begin() + (3 + element) * kChunk)) << element;
  }
}

TEST_F(ParityTest, AnyTwoLegsMayBeMissingAndAreBroughtUpToDate) {
  for (size_t a = 0; a < kLegs; ++a) {
    for (size_t b = a + 1; b < kLegs; ++b) {
      SCOPED_TRACE(absl::StrCat(a, " and ", b));
      disks_[a]->missing = disks_[b]->missing = true;
      EXPECT_THAT(Open().message(), AllOf(HasSubstr(absl::StrCat("leg ", a, " of 5 is missing")), HasSubstr("--degraded")));
      ASSERT_EQ(Open(true), absl::OkStatus());
      ExpectRight();
      Write(a * 1024, 1536, static_cast<std::byte>(a * 16 + b + 1));
      EXPECT_EQ(P::Flush(*state_), absl::OkStatus());
      ExpectRight();
      disks_[a]->missing = disks_[b]->missing = false;
      EXPECT_THAT(Open().message(), HasSubstr("is stale: it failed at event"));
      ASSERT_EQ(Open(true), absl::OkStatus());
      EXPECT_EQ(StateOf(a), ParityLegs::State::kRebuilding);
      ExpectRight();
      RebuildAll();
      EXPECT_EQ(StateOf(a), ParityLegs::State::kInSync);
      EXPECT_EQ(StateOf(b), ParityLegs::State::kInSync);
      EXPECT_EQ(P::Scrub(*state_, UINT64_MAX).value(), 0u);
      EXPECT_EQ(P::Status(*state_).mismatched + P::Status(*state_).repaired, 0u);
      ExpectRight();
      ASSERT_EQ(Open(), absl::OkStatus());
      ExpectRight();
    }
  }
}

TEST_F(ParityTest, MoreThanTwoLegsMissingAreRefused) {
  for (size_t leg : {0, 1, 3}) disks_[leg]->missing = true;
  EXPECT_THAT(Open(true).message(), HasSubstr("of 5 legs 2 are in sync, and 3 are needed"));
  // And nothing was changed by that.
  for (auto& disk : disks_) disk->missing = false;
  EXPECT_EQ(Open(), absl::OkStatus());
  ExpectRight();
}

TEST_F(ParityTest, WhatALegCannotReadIsRepaired) {
  for (const size_t leg : {0, 3}) {
    for (uint64_t at = 0; at < kStripes * kChunk; at += kSector) disks_[leg]->rotten[(kData + at) / kSector] = true;
  }
  ExpectRight();
  EXPECT_EQ(P::Scrub(*state_, UINT64_MAX).value(), 0u);
  for (const size_t leg : {0, 3}) {
    EXPECT_EQ(std::count(disks_[leg]->rotten.begin(), disks_[leg]->rotten.end(), true), 0);
    EXPECT_EQ(StateOf(leg), ParityLegs::State::kInSync);
  }
  EXPECT_EQ(P::Status(*state_).repaired, 2 * kStripes * kChunk);
  EXPECT_EQ(P::Status(*state_).mismatched, 0u);
}

TEST_F(ParityTest, WhatChangedByItselfIsFoundAndRepairedWhereItCanBeTold) {
  disks_[2]->sectors[SectorOfData(0, 0)][5] ^= std::byte{1};
  EXPECT_EQ(P::Scrub(*state_, UINT64_MAX).value(), 0u);
  EXPECT_EQ(P::Status(*state_).repaired, kSector);
  EXPECT_EQ(P::Status(*state_).mismatched, 0u);
  ExpectRight();
  // With one leg less nobody can tell.
  disks_[0]->missing = true;
  ASSERT_EQ(Open(true), absl::OkStatus());
  disks_[2]->sectors[SectorOfData(0, 0)][5] ^= std::byte{1};
  EXPECT_EQ(P::Scrub(*state_, UINT64_MAX).value(), 0u);
  EXPECT_EQ(P::Status(*state_).repaired, 0u);
  EXPECT_EQ(P::Status(*state_).mismatched, kSector);
}

TEST_F(ParityTest, AStripeThatIsLostFailsAloneUntilItIsWrittenWhole) {
  for (const size_t leg : {0, 1, 2}) disks_[leg]->rotten[SectorOfData(0, 512)] = true;
  std::vector<std::byte> read(kSector);
  EXPECT_TRUE(absl::IsDataLoss(P::Read(*state_, 512, read)));
  EXPECT_EQ(P::Read(*state_, 0, read), absl::OkStatus());
  EXPECT_EQ(P::Read(*state_, 1024, read), absl::OkStatus());
  // Others can be written, and what is lost is not made up.
  Write(512, kSector, std::byte{7});
  Write(8192 * 2, kSector, std::byte{8});
  EXPECT_TRUE(absl::IsDataLoss(P::Flush(*state_)));
  EXPECT_EQ(P::Read(*state_, 512, read), absl::OkStatus());
  EXPECT_EQ(read[0], std::byte{7});
  Write(kChunk + 512, kSector, std::byte{9});
  EXPECT_TRUE(absl::IsDataLoss(P::Flush(*state_)));
  Write(2 * kChunk + 512, kSector, std::byte{10});
  EXPECT_EQ(P::Flush(*state_), absl::OkStatus());
  ExpectRight();
  EXPECT_EQ(Open(), absl::OkStatus());
  ExpectRight();
}

TEST_F(ParityTest, AStageFullOfWhatIsLostRefusesWritesAndLosesNone) {
  for (const size_t leg : {0, 1, 2, 3, 4}) {
    for (uint64_t stripe = 0; stripe < kStripes; ++stripe) disks_[leg]->rotten[SectorOfData(stripe, 0)] = true;
  }
  std::vector<std::byte> in(kSector, std::byte{3});
  absl::Status status;
  for (uint64_t chunk = 0; chunk < 3 * kStripes - 1 && status.ok(); ++chunk) {
    status = P::Write(*state_, chunk * kChunk, in);
    std::vector<std::byte> read(kSector);
    if (status.ok()) {
      EXPECT_EQ(P::Read(*state_, chunk * kChunk, read), absl::OkStatus());
      EXPECT_TRUE(read == in);
    }
  }
  EXPECT_TRUE(absl::IsDataLoss(P::Flush(*state_)));
}

TEST_F(ParityTest, ALegThatFailsAWriteIsGivenUpAndTooManyStopIt) {
  disks_[1]->dead = true;
  Write(0, kSize, std::byte{4});
  EXPECT_EQ(P::Flush(*state_), absl::OkStatus());
  EXPECT_EQ(StateOf(1), ParityLegs::State::kFailed);
  disks_[2]->dead = true;
  Write(0, kSize, std::byte{5});
  EXPECT_EQ(P::Flush(*state_), absl::OkStatus());
  ExpectRight();
  const std::vector<std::byte> flushed = bytes_;
  disks_[3]->dead = true;
  Write(0, 3 * kChunk, std::byte{6});
  EXPECT_THAT(P::Flush(*state_).message(), HasSubstr("stopped, since fewer than 3 of 5 legs work"));
  std::vector<std::byte> read(kSector);
  EXPECT_THAT(P::Read(*state_, 0, read).message(), HasSubstr("stopped"));
  EXPECT_THAT(P::Write(*state_, 0, read).message(), HasSubstr("stopped"));
  // It comes back when its legs do; those that had failed before are stale.
  for (auto& disk : disks_) disk->dead = false;
  EXPECT_THAT(Open().message(), HasSubstr("leg 1 of 5 is stale"));
  ASSERT_EQ(Open(true), absl::OkStatus());
  bytes_ = flushed;
  std::vector<std::byte> found(kSize);
  EXPECT_EQ(P::Read(*state_, 0, found), absl::OkStatus());
  EXPECT_TRUE(std::equal(found.begin() + 3 * kChunk, found.end(), bytes_.begin() + 3 * kChunk));
  EXPECT_THAT(found[0], ::testing::AnyOf(std::byte{5}, std::byte{6}));
}

// A transaction that could not be completed must not come back when other legs are there.
TEST_F(ParityTest, WhatWasDroppedStaysDropped) {
  uint64_t power = 4;  // two records and a half
  for (auto& disk : disks_) disk->power = &power;
  const std::vector<std::byte> before = bytes_;
  Write(0, kSector, std::byte{4});
  EXPECT_FALSE(P::Flush(*state_).ok());
  bytes_ = before;
  power = UINT64_MAX;
  // The data's record is lost, and two other legs: its leg, and one that is not concerned, cannot make up the rest.
  disks_[0]->rotten[ParityLayout::kLogAt / kSector] = true;
  ASSERT_EQ(Open(), absl::OkStatus());
  std::vector<std::byte> first(kSize);
  EXPECT_EQ(P::Read(*state_, 0, first), absl::OkStatus());
  for (const auto& [a, b] : {std::pair(0, 1), std::pair(3, 4), std::pair(0, 2)}) {
    for (auto& disk : disks_) disk->missing = false;
    disks_[a]->missing = disks_[b]->missing = true;
    ASSERT_EQ(Open(true), absl::OkStatus());
    std::vector<std::byte> again(kSize);
    EXPECT_EQ(P::Read(*state_, 0, again), absl::OkStatus());
    EXPECT_TRUE(again == first);
    for (auto& disk : disks_) disk->missing = false;
    ASSERT_EQ(Open(true), absl::OkStatus());
    RebuildAll();
  }
}

TEST_F(ParityTest, ALegIsReplacedWhileItIsUsed) {
  BadDisk spare(kDisk);
  EXPECT_THAT(P::Replace(*state_, 2, {&spare}).message(), HasSubstr("leg 2 is in use"));
  EXPECT_EQ(P::Fail(*state_, 2), absl::OkStatus());
  EXPECT_EQ(P::Replace(*state_, 2, {&spare}), absl::OkStatus());
  EXPECT_EQ(StateOf(2), ParityLegs::State::kRebuilding);
  ExpectRight();
  RebuildAll();
  EXPECT_EQ(StateOf(2), ParityLegs::State::kInSync);
  Write(0, kSize, std::byte{9});
  EXPECT_EQ(P::Flush(*state_), absl::OkStatus());
  // The old one is of the set, and has no say.
  std::swap(*disks_[2], spare);
  ASSERT_EQ(Open(), absl::OkStatus());
  ExpectRight();
  std::swap(*disks_[2], spare);
  EXPECT_THAT(Open().message(), HasSubstr("leg 2 of 5 is stale: it is not the medium that is known to be in sync"));
  ASSERT_EQ(Open(true), absl::OkStatus());
  EXPECT_EQ(StateOf(2), ParityLegs::State::kRebuilding);
  ExpectRight();
}

TEST_F(ParityTest, ALegThatIsReplacedWhileItIsRebuiltIsRebuiltFromTheBeginning) {
  BadDisk first(kDisk), second(kDisk);
  EXPECT_EQ(P::Fail(*state_, 2), absl::OkStatus());
  EXPECT_EQ(P::Replace(*state_, 2, {&first}), absl::OkStatus());
  EXPECT_EQ(P::Rebuild(*state_, 2 * kChunk).value(), kChunk);
  EXPECT_EQ(P::Fail(*state_, 2), absl::OkStatus());
  EXPECT_EQ(P::Replace(*state_, 2, {&second}), absl::OkStatus());
  RebuildAll();
  EXPECT_EQ(P::Fail(*state_, 0), absl::OkStatus());
  EXPECT_EQ(P::Fail(*state_, 1), absl::OkStatus());
  ExpectRight();
}

TEST_F(ParityTest, AReplacementThatIsTooSmallIsRefusedAndTheNextIsTaken) {
  BadDisk small(kDisk - 4096);
  BadDisk spare(kDisk);
  EXPECT_EQ(P::Fail(*state_, 2), absl::OkStatus());
  EXPECT_THAT(P::Replace(*state_, 2, {&small}).message(), HasSubstr(absl::StrCat("has ", kDisk - 4096, " bytes")));
  EXPECT_EQ(StateOf(2), ParityLegs::State::kFailed);
  ExpectRight();
  EXPECT_EQ(P::Replace(*state_, 2, {&spare}), absl::OkStatus());
  RebuildAll();
  EXPECT_EQ(P::Fail(*state_, 0), absl::OkStatus());
  EXPECT_EQ(P::Fail(*state_, 1), absl::OkStatus());
  EXPECT_THAT(P::Fail(*state_, 2).message(), HasSubstr("fewer than 3 would be left"));
  ExpectRight();
}

// The log of the first has a transaction that the logs of the others, which come later, know nothing of.
TEST_F(ParityTest, WhenAllLegsWereReplacedOneAfterTheOtherItOpens) {
  std::vector<std::unique_ptr<BadDisk>> replaced;
  for (size_t leg = 0; leg < kLegs; ++leg) {
    EXPECT_EQ(P::Fail(*state_, leg), absl::OkStatus());
    replaced.push_back(std::exchange(disks_[leg], std::make_unique<BadDisk>(kDisk)));
    EXPECT_EQ(P::Replace(*state_, leg, {disks_[leg].get()}), absl::OkStatus());
    RebuildAll();
    if (leg > 0) continue;
    for (uint64_t i = 0; i < 2; ++i) {
      Write(0, 3 * kChunk, std::byte{7});  // a piece for each leg
      EXPECT_EQ(P::Flush(*state_), absl::OkStatus());
    }
  }
  EXPECT_EQ(Open(false), absl::OkStatus());
  ExpectRight();
}

TEST_F(ParityTest, TheLegThatWasReplacedIsNotBelievedWhenItComesBack) {
  for (const bool rebuilt : {false, true}) {
    SCOPED_TRACE(rebuilt);
    EXPECT_EQ(P::Fail(*state_, 2), absl::OkStatus());
    std::unique_ptr<BadDisk> old = std::exchange(disks_[2], std::make_unique<BadDisk>(kDisk));
    EXPECT_EQ(P::Replace(*state_, 2, {disks_[2].get()}), absl::OkStatus());
    if (rebuilt) RebuildAll();
    Write(0, 3 * kChunk, rebuilt ? std::byte{8} : std::byte{9});  // what it does not have
    EXPECT_EQ(P::Flush(*state_), absl::OkStatus());
    state_ = nullptr;
    disks_[2] = std::move(old);
    EXPECT_THAT(std::string(Open().message()),
                HasSubstr(rebuilt ? "it is not the medium that is known to be in sync" : "it failed at event"));
    ASSERT_EQ(Open(true), absl::OkStatus());
    EXPECT_EQ(StateOf(2), ParityLegs::State::kRebuilding);
    ExpectRight();
    RebuildAll();
    ExpectRight();
    ASSERT_EQ(Open(), absl::OkStatus());
  }
}

// A set of which leg 2 is replaced and rebuilt, until the power goes after so many changes.
struct ReplacedUntilPowerCut : ParityTest {
  explicit ReplacedUntilPowerCut(uint64_t changes) {
    EXPECT_EQ(P::Fail(*state_, 2), absl::OkStatus());
    disks_[2] = std::make_unique<BadDisk>(kDisk);
    EXPECT_EQ(P::Replace(*state_, 2, {disks_[2].get()}), absl::OkStatus());
    for (const auto& disk : disks_) disk->power = &changes;
    for (absl::StatusOr<uint64_t> left = 1; left.ok() && *left != 0;) left = P::Rebuild(*state_, 4096);
    state_ = nullptr;
    for (const auto& disk : disks_) {
      disk->power = nullptr;
      disk->LoseSome();
    }
    why = std::string(Open().message());
    EXPECT_EQ(Open(true), absl::OkStatus());
    ExpectRight();
  }
  void TestBody() override {}

  std::string why;  // it does not open without --degraded
};

// Before the others know that it is in sync, it is a leg that failed; after that, it is one like the others, and never one that is
// known to be in sync and has no head to say so.
TEST(ParityReplacementTest, ANewLegIsOneThatFailedOrOneInSyncWheneverThePowerGoes) {
  int stale = 0, in_sync = 0;
  for (uint64_t changes = 0; in_sync < 10; ++changes) {
    ASSERT_LT(changes, 1000u) << "it never comes to an end";
    const std::string why = ReplacedUntilPowerCut(changes).why;
    if (!why.empty()) EXPECT_THAT(why, HasSubstr("leg 2 of 5 is stale: it failed at event")) << changes;
    ++(why.empty() ? in_sync : stale);
  }
  EXPECT_GT(stale, 3);
}

TEST_F(ParityTest, CheckFindsWhatIsDamagedAndChangesNothing) {
  disks_[0]->rotten[SectorOfData(1, 0)] = true;
  for (const size_t leg : {0, 1, 2}) disks_[leg]->rotten[SectorOfData(0, 512)] = true;
  disks_[4]->sectors[SectorOfData(2, 0)][1] ^= std::byte{1};
  disks_[3]->rotten[ParityLayout::kHeadAt[0] / kSector] = true;
  std::vector<Range> damaged;
  std::string flaws;
  const CheckReport report = {.damaged = [&](Range range, absl::string_view) { damaged.push_back(range); },
                              .flawed = [&](absl::string_view what) { absl::StrAppend(&flaws, what, "\n"); },
                              .progress = [](uint64_t, uint64_t) {}};
  EXPECT_EQ(P::Check(*state_, report), absl::OkStatus());
  ASSERT_EQ(damaged.size(), 3u);
  EXPECT_EQ(damaged[0].offset, 512u);
  EXPECT_EQ(damaged[1].offset, kChunk + 512);
  EXPECT_EQ(damaged[2].length, kSector);
  EXPECT_THAT(flaws, AllOf(HasSubstr("contradict"), HasSubstr("leg 3: the head at offset 4096 is damaged")));
  EXPECT_TRUE(disks_[0]->rotten[SectorOfData(1, 0)]);
}

TEST_F(ParityTest, LegsInAnotherOrderOrOfAnotherSetAreRefused) {
  std::swap(disks_[1], disks_[2]);
  EXPECT_THAT(Open(true).message(), AllOf(HasSubstr("leg 2"), HasSubstr("1")));
  std::swap(disks_[1], disks_[2]);
  std::vector<std::unique_ptr<BadDisk>> others;
  for (size_t leg = 0; leg < kLegs; ++leg) others.push_back(std::make_unique<BadDisk>(kDisk));
  std::swap(others, disks_);
  EXPECT_EQ(Format(), absl::OkStatus());
  std::swap(others[3], disks_[3]);
  EXPECT_THAT(Open(true).message(), HasSubstr("set"));
}

TEST_F(ParityTest, AnotherGeometryIsRefused) {
  using Other = Parity<3, 2, BadLeg, 2 * kChunk>;
  auto state = std::make_unique<Other::State>();
  Other::Config config;
  config.below = Config(true).below;
  EXPECT_THAT(Other::Open(config, *state).message(), AllOf(HasSubstr("parity(3+2,4096)"), HasSubstr("parity(3+2,8192)")));
}

TEST_F(ParityTest, UnusableOptionsAreRefusedInASentence) {
  P::Config config = Config(false);
  config.log = 4096;
  EXPECT_THAT(FormatStack<P>(config, [](uint64_t, uint64_t) {}).message(), HasSubstr("a log of 4096 bytes on each leg"));
  config.log = 1 << 20;
  EXPECT_THAT(FormatStack<P>(config, [](uint64_t, uint64_t) {}).message(), HasSubstr("make it larger, or the log smaller"));
  config = Config(false);
  config.stage = 4096;
  state_ = std::make_unique<P::State>();
  EXPECT_THAT(P::Open(config, *state_).message(), HasSubstr("a stage of 4096 bytes is too small"));
}

// Threads write, read and flush files of their own while legs fail, are replaced, rebuilt and scrubbed.
TEST(ParityThreadsTest, ALegIsReplacedUnderLoad) {
  using P = Parity<2, 1, FileBacked>;
  constexpr uint64_t kFile = 8 << 20;
  constexpr uint64_t kPart = 1 << 20;
  constexpr int kThreads = 3;
  std::vector<std::string> paths;
  const auto new_file = [&]() -> FileBacked::Config {
    paths.push_back(absl::StrCat(::testing::TempDir(), "/parity-", getpid(), "-", paths.size()));
    return {.path = paths.back(), .create = kFile};
  };
  P::Config config = {.log = 1 << 20, .stage = 1 << 18, .below = {new_file(), new_file(), new_file()}};
  ASSERT_EQ(FormatStack<P>(config, [](uint64_t, uint64_t) {}), absl::OkStatus());
  auto state = std::make_unique<P::State>();
  ASSERT_EQ(P::Open(config, *state), absl::OkStatus());
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  std::array<std::vector<std::byte>, kThreads> contents;
  for (int number = 0; number < kThreads; ++number) {
    threads.emplace_back([&, number] {
      std::vector<std::byte>& content = contents[number];
      content.resize(kPart);
      std::mt19937_64 random(number);
      const uint64_t base = number * kPart;
      while (!stop) {
        const uint64_t length = 512 * (1 + random() % 64);
        const uint64_t at = random() % ((kPart - length) / 512) * 512;
        for (uint64_t i = 0; i < length; ++i) content[at + i] = static_cast<std::byte>(random() | 1);
        ASSERT_EQ(P::Write(*state, base + at, ConstBytes(content).subspan(at, length)), absl::OkStatus());
        if (random() % 8 == 0) {
          ASSERT_EQ(P::Flush(*state), absl::OkStatus());
        }
        std::vector<std::byte> read(kPart);
        ASSERT_EQ(P::Read(*state, base, read), absl::OkStatus());
        ASSERT_TRUE(read == content);
      }
    });
  }
  for (size_t leg = 0; leg < 3; ++leg) {
    EXPECT_EQ(P::Fail(*state, leg), absl::OkStatus());
    auto file = new_file();
    EXPECT_EQ(P::Replace(*state, leg, file), absl::OkStatus());
    for (absl::StatusOr<uint64_t> left = 1; left.ok() && *left != 0;) left = P::Rebuild(*state, 1 << 18);
    EXPECT_EQ(P::Status(*state).leg[leg].state, ParityLegs::State::kInSync);
    EXPECT_EQ(P::Scrub(*state, UINT64_MAX).value(), 0u);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(P::Flush(*state), absl::OkStatus());
  EXPECT_EQ(P::Scrub(*state, UINT64_MAX).value(), 0u);
  EXPECT_EQ(P::Status(*state).mismatched + P::Status(*state).unreadable, 0u);
  state = std::make_unique<P::State>();
  config.below = {FileBacked::Config{.path = paths[3]}, FileBacked::Config{.path = paths[4]},
                  FileBacked::Config{.path = paths[5]}};
  ASSERT_EQ(P::Open(config, *state), absl::OkStatus());
  for (int number = 0; number < kThreads; ++number) {
    std::vector<std::byte> read(kPart);
    ASSERT_EQ(P::Read(*state, number * kPart, read), absl::OkStatus());
    EXPECT_TRUE(read == contents[number]);
  }
  for (const std::string& path : paths) unlink(path.c_str());
}

// One flush of each leg and, of the legs concerned, one write to the log and one in place.
TEST(ParityCostTest, ASmallWriteCostsWhatTheHeaderSays) {
  using P = Parity<2, 1, Full512, kChunk>;
  std::array<Script, 3> scripts;
  P::Config config = {.log = kLog, .stage = ParitySet::kLeastStage};
  std::get<0>(config.below) = {.size = kDisk, .script = &scripts[0]};
  std::get<1>(config.below) = {.size = kDisk, .script = &scripts[1]};
  std::get<2>(config.below) = {.size = kDisk, .script = &scripts[2]};
  ASSERT_EQ(FormatStack<P>(config, [](uint64_t, uint64_t) {}), absl::OkStatus());
  auto state = std::make_unique<P::State>();
  ASSERT_EQ(P::Open(config, *state), absl::OkStatus());
  for (Script& script : scripts) script.calls.clear();
  const std::vector<std::byte> in(512, std::byte{1});
  EXPECT_EQ(P::Write(*state, 0, in), absl::OkStatus());
  EXPECT_EQ(P::Flush(*state), absl::OkStatus());
  EXPECT_EQ(scripts[0].calls.size(), 3u);  // log, flush, in place
  EXPECT_EQ(scripts[1].calls.size(), 2u);  // read, flush
  EXPECT_EQ(scripts[2].calls.size(), 3u);
  EXPECT_EQ(P::Flush(*state), absl::OkStatus());
  EXPECT_EQ(scripts[1].calls.size(), 2u);
}

// ---- The code.

TEST(ParityCodeTest, AnyKElementsGiveTheOthersBack) {
  constexpr size_t kBytes = 100;
  for (const auto& [data, parity] : {std::pair(1, 1), std::pair(2, 1), std::pair(4, 2), std::pair(5, 3), std::pair(10, 4)}) {
    ParityCode code;
    code.Open(data, parity);
    const size_t all = code.elements();
    std::vector<std::vector<std::byte>> bytes(all, std::vector<std::byte>(kBytes));
    std::vector<std::byte*> elements;
    for (size_t i = 0; i < all; ++i) {
      for (size_t at = 0; at < kBytes; ++at) bytes[i][at] = static_cast<std::byte>((i + 3) * (at + 7) * 31 / 5);
      elements.push_back(bytes[i].data());
    }
    code.Encode(elements.data(), kBytes);
    const auto right = bytes;
    for (LegMask lost = 0; lost < Leg(all); ++lost) {
      if (static_cast<size_t>(std::popcount(lost)) > static_cast<size_t>(parity)) continue;
      ForEachLeg(lost, [&](size_t i) { std::fill(bytes[i].begin(), bytes[i].end(), std::byte{0}); });
      code.Reconstruct((Leg(all) - 1) & ~lost, lost, elements.data(), kBytes);
      ASSERT_TRUE(bytes == right) << data << "+" << parity << " lost " << lost;
    }
  }
}

}  // namespace
}  // namespace buse::testing
