// SPDX-License-Identifier: Apache-2.0

#include "layers/checksum.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/file_backed.h"
#include "layers/memory.h"
#include "layers/read_only.h"
#include "tests/fail_nth.h"
#include "tests/layers/checksum_rig.h"
#include "tests/layers/set_crc32c.h"
#include "tests/leaves.h"

template struct buse::Checksum<buse::testing::Full>;
template struct buse::Checksum<buse::testing::Full512, buse::Sha256, 4096>;

namespace buse::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Capabilities kOffered = {
    .write = true, .trim = true, .write_zeroes = true, .extents = true, .prefetch = true, .try_read = true, .try_write = true};
static_assert(kCapabilities<Checksum<Full>> == kOffered);
static_assert(kCapabilities<Checksum<Writer>> == Capabilities{.write = true, .try_write = true});
static_assert(kCapabilities<Checksum<Bare>> == kNothing);
static_assert(CanFormat<Checksum<Full>> && CanFormat<Checksum<Writer>> && !CanFormat<Checksum<Bare>>);
static_assert(CanCheck<Checksum<Full>> && CanCheck<Checksum<Bare>>);
static_assert(Checksum<Full>::kBlockSize == 512 && Checksum<Full, Xxh3, 4096>::kBlockSize == 4096);
static_assert(Checksum<Full>::kConcurrency == Concurrency::kParallel);
static_assert(Checksum<BasicFull<1, Concurrency::kDisjoint>>::kConcurrency == Concurrency::kSerial);

using Stack = Checksum<Full>;
constexpr uint64_t kMedium = 1 << 20;

// ---- Contents.

TEST(ChecksumTest, AFreshDeviceReadsAsZeroes) {
  ChecksumRig<Stack> rig;
  EXPECT_GT(rig.size(), kMedium * 9 / 10 - 65536);
  EXPECT_EQ(rig.size() % 512, 0u);
  EXPECT_TRUE(rig.Holds(0, std::vector<std::byte>(rig.size())));
}

TEST(ChecksumTest, FormatLeavesNothingOfWhatWasThere) {
  Script script;
  script.medium = Pattern(kMedium, 1);
  const Checksum<Writer>::Config config = {.below = {.size = kMedium, .script = &script}};
  std::vector<uint64_t> progress;
  ASSERT_FALSE(FormatStack<Checksum<Writer>>(config, IgnoreProgress).ok()) << "a log as large as the medium";
  Checksum<Writer>::Config small = config;
  small.log = 65536;
  const auto follow = [&](uint64_t done, uint64_t total) { progress.insert(progress.end(), {done, total}); };
  ASSERT_TRUE(FormatStack<Checksum<Writer>>(small, follow).ok());
  ASSERT_GE(progress.size(), 2u);
  EXPECT_EQ(progress[progress.size() - 2], progress.back());
  auto state = std::make_unique<Checksum<Writer>::State>();
  ASSERT_TRUE(Checksum<Writer>::Open(small, *state).ok());
  std::vector<std::byte> all(Checksum<Writer>::Size(*state));
  EXPECT_TRUE(Checksum<Writer>::Read(*state, 0, all).ok());
  EXPECT_EQ(all, std::vector<std::byte>(all.size()));
}

template <class S>
void ExpectKeepsWhatWasWritten(typename S::Config config) {
  ChecksumRig<S> rig(config);
  const std::vector<std::byte> first = Pattern(rig.size(), 1);
  ASSERT_TRUE(rig.Write(0, first).ok());
  const std::vector<std::byte> second = Pattern(3 * S::kBlockSize, 2);
  ASSERT_TRUE(rig.Write(5 * S::kBlockSize, second).ok());
  std::vector<std::byte> expected = first;
  std::copy(second.begin(), second.end(), expected.begin() + 5 * S::kBlockSize);
  EXPECT_TRUE(rig.Holds(0, expected));
  ASSERT_TRUE(rig.Flush().ok());
  EXPECT_TRUE(rig.Holds(0, expected));
  rig.Open();
  EXPECT_TRUE(rig.Holds(0, expected));
  EXPECT_EQ(std::memcmp(rig.data(), expected.data(), expected.size()), 0) << "the data lies below one to one";
}

TEST(ChecksumTest, KeepsWhatWasWritten) {
  ExpectKeepsWhatWasWritten<Checksum<Full>>({.log = 16384, .stage = 16384, .table_cache = 8192, .below = {.size = kMedium}});
  ExpectKeepsWhatWasWritten<Checksum<Full512>>({.log = 65536, .below = {.size = kMedium}});
  ExpectKeepsWhatWasWritten<Checksum<Writer, Xxh3, 1024>>(
      {.log = 16384, .stage = 16384, .table_cache = 8192, .below = {.size = kMedium}});
  ExpectKeepsWhatWasWritten<Checksum<Full, Sha256, 4096>>(
      {.log = 16384, .stage = 16384, .table_cache = 8192, .below = {.size = kMedium}});
  ExpectKeepsWhatWasWritten<Checksum<Full, Sha256>>(
      {.log = 16384, .stage = 16384, .table_cache = 8192, .below = {.size = kMedium}});
}

TEST(ChecksumTest, SmallZeroesAreStagedAndReleasedWithTheNextFlush) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(8192, 1)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  rig.script().calls.clear();
  ASSERT_TRUE(Stack::Trim(rig.state(), {512, 1024}).ok());
  ASSERT_TRUE(Stack::WriteZeroes(rig.state(), {4096, 512}).ok());
  EXPECT_TRUE(rig.script().calls.empty());
  std::vector<std::byte> expected = Pattern(8192, 1);
  std::fill_n(expected.begin() + 512, 1024, std::byte{0});
  std::fill_n(expected.begin() + 4096, 512, std::byte{0});
  EXPECT_TRUE(rig.Holds(0, expected));
  ASSERT_TRUE(rig.Flush().ok());
  EXPECT_THAT(rig.Changes(), ElementsAre("WriteThrough log", "Write data", "Trim data", "Write head"));
  rig.Open();
  EXPECT_TRUE(rig.Holds(0, expected));
}

TEST(ChecksumTest, LargeZeroesAreDurableAtOnce) {
  for (bool trim : {true, false}) {
    ChecksumRig<Stack> rig;
    ASSERT_TRUE(rig.Write(0, Pattern(rig.size(), 1)).ok());
    const Range range = {1536, 700 * 512};
    ASSERT_TRUE((trim ? Stack::Trim(rig.state(), range) : Stack::WriteZeroes(rig.state(), range)).ok());
    EXPECT_EQ(rig.Calls(trim ? "Trim" : "WriteZeroes", {rig.geometry().data, rig.size()}), 1u);
    std::vector<std::byte> expected = Pattern(rig.size(), 1);
    std::fill_n(expected.begin() + range.offset, range.length, std::byte{0});
    EXPECT_TRUE(rig.Holds(0, expected));
    rig.Open();
    EXPECT_TRUE(rig.Holds(0, expected));
  }
}

// The sums of 32 bytes are in pages for 128 blocks each.
TEST(ChecksumTest, WholePagesOfTheTableAreClearedWhenTheZeroesAreDurable) {
  using Wide = Checksum<Full, Sha256>;
  ChecksumRig<Wide> rig({.log = 65536, .stage = 65536, .table_cache = 8192, .below = {.size = kMedium}});
  ASSERT_TRUE(rig.Write(0, Pattern(rig.size(), 1)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  rig.Open();
  ASSERT_TRUE(Wide::Trim(rig.state(), {0, 256 * 512}).ok());
  EXPECT_THAT(rig.Changes(), ElementsAre("WriteThrough log", "Trim data", "Flush", "Trim table"));
  EXPECT_TRUE(rig.Holds(0, std::vector<std::byte>(256 * 512)));
  EXPECT_TRUE(rig.Holds(256 * 512, ConstBytes(Pattern(rig.size(), 1)).subspan(256 * 512)));
}

// As mkfs does, whose cost must not be that of the sums.
TEST(ChecksumTest, ATebibyteIsFormattedAndTrimmedAtOnce) {
  using Large = Checksum<Memory>;
  const Large::Config config = {.stage = 65536, .table_cache = 65536, .below = {.size = uint64_t{1} << 40}};
  auto state = std::make_unique<Large::State>();
  ASSERT_TRUE(Memory::Open(config.below, state->below).ok());
  ASSERT_TRUE(Large::Format(config, state->below, IgnoreProgress).ok());
  // Memory does not outlive its state: what Open would do is done by hand.
  DeviceIoOf<Memory> io(state->below);
  const auto superblock =
      ReadSuperblock<Memory>(state->below, {.kind = "checksum", .block_size = 512, .fingerprint = Fingerprint<Large>()});
  ASSERT_TRUE(superblock.ok());
  const auto geometry = ChecksumGeometry::From(*superblock, 4);
  ASSERT_TRUE(state->store.Open(io, *geometry, SumBlocks<Crc32c>, {config.stage, config.table_cache, 512, true}).ok());
  const std::vector<std::byte> bytes = Pattern(4096, 1);
  const uint64_t end = Large::Size(*state);
  ASSERT_TRUE(Large::Write(*state, end - 4096, bytes).ok());
  ASSERT_TRUE(Large::Flush(*state).ok());
  ASSERT_TRUE(Large::Trim(*state, {512, end - 512}).ok());
  std::vector<std::byte> read(4096);
  ASSERT_TRUE(Large::Read(*state, end - 4096, read).ok());
  EXPECT_EQ(read, std::vector<std::byte>(4096));
  uint64_t holes = 0;
  for (uint64_t at = 0; at < end;) {
    ASSERT_TRUE(Large::Extents(*state, {at, end - at}, [&](const Extent& extent) {
                  holes += extent.kind == Extent::Kind::kHole ? extent.range.length : 0;
                  at = extent.range.end();
                  return true;
                }).ok());
  }
  EXPECT_GE(holes, end - 8192);
}

// ---- Opening.

TEST(ChecksumTest, AfterACleanEndNoDataIsReadAndNothingIsWrittenTwice) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(rig.size(), 1)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  ASSERT_TRUE(rig.TryOpen().ok());
  rig.script().calls.clear();
  ASSERT_TRUE(rig.TryOpen().ok());
  EXPECT_EQ(rig.Calls("Read", {rig.geometry().data, rig.size()}), 0u);
  EXPECT_TRUE(rig.Changes().empty()) << "the log was empty";
  EXPECT_TRUE(rig.Holds(0, Pattern(rig.size(), 1)));
}

// The head that says so was only written, the last flush not being followed by another; settled all the same.
TEST(ChecksumTest, SettledSumsAreTakenWithoutReadingTheirData) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(131072, 1)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  rig.script().calls.clear();
  ASSERT_TRUE(rig.TryOpen().ok());
  EXPECT_EQ(rig.Calls("Read", {rig.geometry().data, rig.size()}), 0u);
  EXPECT_THAT(rig.Changes(), ElementsAre("Flush", "Write table", "Flush", "WriteThrough head"));
  EXPECT_TRUE(rig.Holds(0, Pattern(131072, 1)));
}

TEST(ChecksumTest, WhatWasNotFlushedIsRecoveredAsFarAsItIsThere) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(65536, 1)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  // The stage has eight pages in each half: more than that is committed.
  ASSERT_TRUE(rig.Write(0, Pattern(65536, 2)).ok());
  ASSERT_GT(rig.Calls("Write", {rig.geometry().data, rig.size()}), 1u);
  rig.script().calls.clear();
  ASSERT_TRUE(rig.TryOpen().ok());
  EXPECT_GT(rig.Calls("Read", {rig.geometry().data, rig.size()}), 0u);
  ASSERT_TRUE(rig.Holds(0, Pattern(32768, 2)));
  EXPECT_TRUE(rig.Holds(32768, ConstBytes(Pattern(65536, 1)).subspan(32768)) ||
              rig.Holds(32768, ConstBytes(Pattern(65536, 2)).subspan(32768)));
}

TEST(ChecksumTest, ZeroesAreNotWrittenAgainOverWhatCameAfterThem) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(131072, 1)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  ASSERT_TRUE(Stack::Trim(rig.state(), {0, 131072}).ok());
  ASSERT_TRUE(rig.Write(8192, Pattern(32768 + 512, 2)).ok()) << "a stage, which is committed, and more";
  rig.Open();
  EXPECT_TRUE(rig.Holds(0, std::vector<std::byte>(8192)));
  EXPECT_TRUE(rig.Holds(8192, Pattern(32768, 2)));
  EXPECT_TRUE(rig.Holds(8192 + 32768, std::vector<std::byte>(131072 - 8192 - 32768)));
}

TEST(ChecksumTest, WhatIsInDoubtAndDamagedStaysDamaged) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(65536, 1)).ok());
  rig.data()[1000] ^= std::byte{1};
  ASSERT_TRUE(rig.TryOpen().ok());
  EXPECT_TRUE(rig.Holds(0, Pattern(512, 1)));
  EXPECT_EQ(rig.Read(512, 512).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(rig.Holds(1024, ConstBytes(Pattern(65536, 1)).subspan(1024, 4096)));
}

template <class S>
std::string OpenError(ChecksumRig<S>& rig) {
  const absl::Status status = rig.TryOpen();
  EXPECT_FALSE(status.ok());
  return absl::StrCat(absl::StatusCodeToString(status.code()), " ", absl::string_view(status.message()));
}

TEST(ChecksumTest, RefusesWhatIsNotItsMedium) {
  ChecksumRig<Stack> rig;
  rig.config().stage = 4096;
  EXPECT_THAT(OpenError(rig), HasSubstr("a stage of 4096 bytes"));
  rig.config().stage = 65536;
  rig.config().table_cache = 4096;
  EXPECT_THAT(OpenError(rig), HasSubstr("a table cache of 4096"));
  rig.config().table_cache = 8192;

  const auto refusal = [&]<class Other>(Other*) {
    typename Other::Config config = {.below = {.size = rig.script().medium.size(), .script = &rig.script()}};
    auto state = std::make_unique<typename Other::State>();
    return Other::Open(config, *state).ToString();
  };
  EXPECT_THAT(refusal(static_cast<Checksum<Full, Crc32c, 4096>*>(nullptr)), HasSubstr("512"));
  EXPECT_THAT(refusal(static_cast<Checksum<Full, Xxh3>*>(nullptr)), HasSubstr("xxh3"));

  rig.config().below.size = kMedium + 4096;
  EXPECT_THAT(OpenError(rig), HasSubstr("FAILED_PRECONDITION"));
  rig.config().below.size = kMedium;
  ASSERT_TRUE(rig.TryOpen().ok());
  Script blank;
  blank.medium.resize(kMedium);
  std::swap(blank.medium, rig.script().medium);
  EXPECT_THAT(OpenError(rig), HasSubstr("format"));
}

TEST(ChecksumTest, OneHeadIsEnough) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(65536, 1)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  const ChecksumGeometry geometry = rig.geometry();
  const std::vector<std::byte> medium = rig.script().medium;
  for (uint64_t head : geometry.heads) {
    rig.script().medium = medium;
    rig.script().medium[head + 100] ^= std::byte{1};
    ASSERT_TRUE(rig.TryOpen().ok());
    EXPECT_TRUE(rig.Holds(0, Pattern(65536, 1)));
  }
  rig.script().medium = medium;
  for (uint64_t head : geometry.heads) rig.script().medium[head] ^= std::byte{1};
  EXPECT_EQ(
      OpenError(rig),
      absl::StrFormat("DATA_LOSS checksum: both heads of the log, at offsets %d and %d, are damaged, so that it is not known "
                      "which sums are valid; the data, from offset %d on, may be intact",
                      geometry.heads[0], geometry.heads[1], geometry.data));
}

// ---- Damage.

TEST(ChecksumTest, AnErrorNamesWhereAndHowMuch) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(rig.size(), 1)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  rig.data()[70000] ^= std::byte{4};
  rig.data()[200000] ^= std::byte{4};
  EXPECT_EQ(
      rig.Read(65536, 262144),
      absl::DataLossError("checksum: wrong bytes in 2 of 512 blocks of 512 bytes at offset 65536, the first at offset 69632"));
  EXPECT_TRUE(rig.Holds(0, ConstBytes(Pattern(rig.size(), 1)).first(69632)));
  EXPECT_EQ(rig.Read(69632, 512).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(rig.Holds(70144, ConstBytes(Pattern(rig.size(), 1)).subspan(70144, 65536)));
  // Writing it again heals it.
  ASSERT_TRUE(rig.Write(69632, Pattern(512, 9)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  EXPECT_TRUE(rig.Holds(69632, Pattern(512, 9)));
}

// One block in 2^32 has the hash that zeroes have for a sum. It must neither look damaged nor pass for zeroes.
TEST(ChecksumTest, ABlockOfTheHashZeroIsLikeAnyOther) {
  ChecksumRig<Stack> rig;
  std::vector<std::byte> bytes = Pattern(8192, 1);
  SetCrc32c(0, rig.geometry().salt, 3, Bytes(bytes).subspan(3 * 512, 512));
  uint32_t hash = 1;
  Crc32c::Compute(rig.geometry().salt, 3, ConstBytes(bytes).subspan(3 * 512, 512), reinterpret_cast<std::byte*>(&hash));
  ASSERT_EQ(hash, 0u);
  ASSERT_TRUE(rig.Write(0, bytes).ok());
  ASSERT_TRUE(rig.Flush().ok());
  rig.Open();
  EXPECT_TRUE(rig.Holds(0, bytes));
  std::memset(rig.data() + 3 * 512, 0, 512);
  EXPECT_EQ(rig.Read(0, 8192).code(), absl::StatusCode::kDataLoss);
}

TEST(ChecksumTest, GoodBytesElsewhereAreWrong) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(65536, 1)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  // A block in the place of another, with the other's sum.
  std::memcpy(rig.data() + 512, rig.data(), 512);
  std::memcpy(rig.script().medium.data() + rig.geometry().table + 4, rig.script().medium.data() + rig.geometry().table, 4);
  EXPECT_EQ(rig.Read(512, 512).code(), absl::StatusCode::kDataLoss);
  // Data and sums of another medium.
  ChecksumRig<Stack> other;
  ASSERT_TRUE(other.Write(0, Pattern(65536, 2)).ok());
  ASSERT_TRUE(other.Flush().ok());
  other.Open();
  const uint64_t table = other.geometry().table;
  std::copy(rig.script().medium.begin() + table, rig.script().medium.end() - 8192, other.script().medium.begin() + table);
  other.Open();
  EXPECT_EQ(other.Read(1024, 512).code(), absl::StatusCode::kDataLoss);
}

// The content in an older slot must not come back in place of what a lost one had.
TEST(ChecksumTest, ALostSlotOfTheLogIsNoticed) {
  ChecksumRig<Stack> rig;
  for (uint64_t seed : {1, 2}) {
    ASSERT_TRUE(rig.Write(0, Pattern(4096, seed)).ok());
    ASSERT_TRUE(rig.Flush().ok());
  }
  const auto last = std::find_if(rig.script().calls.rbegin(), rig.script().calls.rend(),
                                 [](const Call& call) { return call.operation == "WriteThrough"; });
  ASSERT_NE(last, rig.script().calls.rend());
  std::fill_n(rig.script().medium.begin() + last->range.offset, last->range.length, std::byte{0});
  rig.Open();
  EXPECT_EQ(rig.Read(0, 512).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(rig.Holds(4096, std::vector<std::byte>(4096)));
  std::string flaws;
  const auto flawed = [&](absl::string_view what) { absl::StrAppend(&flaws, what); };
  ASSERT_TRUE(Stack::Check(rig.state(), {[](Range, absl::string_view) {}, flawed, IgnoreProgress}).ok());
  EXPECT_THAT(flaws, HasSubstr("a part of the log was lost"));
}

TEST(ChecksumTest, CheckFindsWhatIsDamaged) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(131072, 1)).ok());
  const auto check = [&] {
    std::string text;
    uint64_t last = 0;
    const auto damaged = [&](Range range, absl::string_view) { absl::StrAppend(&text, range.offset, "+", range.length, " "); };
    const auto flawed = [&](absl::string_view what) { absl::StrAppend(&text, "[", what.substr(0, 20), "] "); };
    const auto progress = [&](uint64_t done, uint64_t total) {
      EXPECT_GE(done, last);
      EXPECT_EQ(total, rig.size());
      last = done;
    };
    EXPECT_TRUE(Stack::Check(rig.state(), {damaged, flawed, progress}).ok());
    EXPECT_EQ(last, rig.size());
    return text;
  };
  EXPECT_EQ(check(), "");
  rig.data()[5000] ^= std::byte{1};
  rig.data()[5600] ^= std::byte{1};
  rig.data()[rig.size() - 1] ^= std::byte{1};
  EXPECT_EQ(check(), absl::StrCat("4608+512 5120+512 ", rig.size() - 512, "+512 "));
  rig.script().medium[5] ^= std::byte{1};
  rig.script().medium[rig.geometry().heads[0]] ^= std::byte{1};
  EXPECT_THAT(check(), HasSubstr("[the head of the log ]"));
}

TEST(ChecksumTest, CheckSkipsHoles) {
  ChecksumRig<Stack> rig;
  const auto ignore_range = [](Range, absl::string_view) {};
  const auto ignore_text = [](absl::string_view) {};
  ASSERT_TRUE(Stack::Check(rig.state(), {ignore_range, ignore_text, IgnoreProgress}).ok());
  EXPECT_EQ(rig.Calls("Read", {rig.geometry().data, rig.size()}), 0u);
}

// ---- Failures.

const auto kConfigure = [](Script& script) {
  const Stack::Config config = {
      .log = 16384, .stage = 16384, .table_cache = 8192, .inline_commits = true, .below = {.size = 65536, .script = &script}};
  EXPECT_TRUE(FormatStack<Stack>(config, IgnoreProgress).ok());
  return config;
};

TEST(ChecksumTest, EveryFailureSurfacesAndSparesTheRest) {
  const std::vector<std::byte> few = Pattern(1024, 5);
  const std::vector<std::byte> many = Pattern(12288, 5);
  const auto then_flush = [](Stack::State& state, absl::Status status) { return status.ok() ? Stack::Flush(state) : status; };
  EXPECT_GE(
      FailNth<Stack>(kConfigure, {512, 1024}, [&](auto& state) { return then_flush(state, Stack::Write(state, 512, few)); }),
      4);
  EXPECT_GE(
      FailNth<Stack>(kConfigure, {512, 12288}, [&](auto& state) { return then_flush(state, Stack::Write(state, 512, many)); }),
      10);
  EXPECT_GE(FailNth<Stack>(kConfigure, {512, 1024},
                           [&](auto& state) {
                             return then_flush(state, Stack::Trim(state, {512, 1024}));
                           }),
            3);
  EXPECT_GE(FailNth<Stack>(kConfigure, {512, 8192},
                           [&](auto& state) {
                             return then_flush(state, Stack::Trim(state, {512, 8192}));
                           }),
            6);
  EXPECT_GE(FailNth<Stack>(kConfigure, {512, 8192},
                           [&](auto& state) {
                             return then_flush(state, Stack::WriteZeroes(state, {512, 8192}));
                           }),
            6);
  std::vector<std::byte> out(4096);
  EXPECT_GE(FailNth<Stack>(kConfigure, {}, [&](auto& state) { return Stack::Read(state, 8192, out); }), 1);
  EXPECT_GE(FailNth<Stack>(kConfigure, {},
                           [&](auto& state) {
                             return Stack::Extents(state, {0, 4096}, [](const Extent&) { return true; });
                           }),
            1);
}

TEST(ChecksumTest, NothingAcknowledgedIsDroppedWhenACommitFails) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(20480, 1)).ok());
  for (int n = 0; n < 3; ++n) {
    rig.script().fail_at = static_cast<int64_t>(rig.script().calls.size()) + std::min(n, 1);
    EXPECT_FALSE(rig.Flush().ok());
    EXPECT_TRUE(rig.Holds(0, Pattern(20480, 1)));
  }
  rig.script().fail_at = -1;
  ASSERT_TRUE(rig.Flush().ok());
  rig.Open();
  EXPECT_TRUE(rig.Holds(0, Pattern(20480, 1)));
}

TEST(ChecksumTest, WritesFailOnlyWhenNothingMoreCanBeStaged) {
  ChecksumRig<Stack> rig({.log = 16384, .stage = 16384, .table_cache = 8192, .below = {.size = kMedium}});
  ASSERT_TRUE(rig.Write(0, Pattern(8192, 1)).ok());
  EXPECT_TRUE(rig.script().calls.empty());
  const auto fail_next = [&] { rig.script().fail_at = static_cast<int64_t>(rig.script().calls.size()); };
  fail_next();
  EXPECT_FALSE(rig.Write(8192, Pattern(4096, 2)).ok()) << "the medium fails as room is made";
  EXPECT_TRUE(rig.Write(8192, Pattern(8192, 2)).ok()) << "there is room";
  fail_next();
  EXPECT_FALSE(rig.Write(16384, Pattern(4096, 3)).ok());
  EXPECT_TRUE(rig.Holds(0, Pattern(8192, 1)));
  EXPECT_TRUE(rig.Holds(8192, Pattern(8192, 2)));
  rig.script().fail_at = -1;
  EXPECT_TRUE(rig.Write(16384, Pattern(4096, 3)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  rig.Open();
  EXPECT_TRUE(rig.Holds(0, Pattern(8192, 1)));
  EXPECT_TRUE(rig.Holds(8192, Pattern(8192, 2)));
  EXPECT_TRUE(rig.Holds(16384, Pattern(4096, 3)));
}

// What a TryRead reads and a TryWrite writes is neither the disk's nor a commit's to wait for.
TEST(ChecksumTest, ATryDoesWhatNeedsNoWaiting) {
  ChecksumRig<Stack> rig({.log = 16384, .stage = 16384, .table_cache = 8192, .below = {.size = kMedium}});
  std::vector<std::byte> out(4096);
  const auto try_read = [&] { return Stack::TryRead(rig.state(), 0, out); };
  for (const int64_t refused : {0, 1}) {
    rig.script().calls.clear();
    rig.script().fail_at = refused;
    EXPECT_FALSE(try_read()) << "the bytes or their sums would have to be waited for";
    EXPECT_EQ(rig.script().calls.size(), static_cast<size_t>(refused) + 1);
  }
  rig.script().fail_at = -1;
  EXPECT_TRUE(try_read());
  EXPECT_EQ(out, std::vector<std::byte>(4096));
  EXPECT_EQ(rig.Calls("Read"), 0u);
  rig.script().calls.clear();
  EXPECT_TRUE(try_read());
  EXPECT_EQ(rig.Calls("TryRead"), 1u) << "the sums are known now";

  rig.script().calls.clear();
  ASSERT_TRUE(Stack::TryWrite(rig.state(), 0, Pattern(8192, 1)));
  EXPECT_FALSE(Stack::TryWrite(rig.state(), 8192, Pattern(4096, 2))) << "the stage is full";
  EXPECT_TRUE(try_read());
  EXPECT_EQ(out, Pattern(4096, 1)) << "what is staged";
  EXPECT_TRUE(rig.script().calls.empty()) << "nothing was asked or written below";
  ASSERT_TRUE(rig.Flush().ok());
  rig.Open();
  EXPECT_TRUE(rig.Holds(0, Pattern(8192, 1)));
  rig.data()[4000] ^= std::byte{1};
  EXPECT_FALSE(try_read()) << "it takes excluding commits to say that this is damage";
  EXPECT_EQ(rig.Read(0, 4096).code(), absl::StatusCode::kDataLoss);
}

// A Trim that failed may have reached the log: then it must neither undo what comes after it nor leave an alarm.
TEST(ChecksumTest, ATrimThatFailedIsNotCarriedOutLater) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(65536, 1)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  // What it would have written, from a twin.
  ChecksumRig<Stack> twin;
  twin.script().medium = rig.script().medium;
  twin.Open();
  rig.Open();
  ASSERT_TRUE(Stack::Trim(twin.state(), {0, 65536}).ok());
  ASSERT_EQ(twin.script().calls[0].operation, "WriteThrough");
  const Range slot = twin.script().calls[0].range;
  rig.script().fail_at = 0;
  ASSERT_FALSE(Stack::Trim(rig.state(), {0, 65536}).ok());
  std::copy_n(twin.script().medium.begin() + slot.offset, slot.length, rig.script().medium.begin() + slot.offset);
  rig.script().fail_at = -1;
  EXPECT_TRUE(rig.Holds(0, Pattern(65536, 1)));
  for (uint64_t length : {512, 40960}) {
    ASSERT_TRUE(rig.Write(0, Pattern(length, 2)).ok());
    ASSERT_TRUE(rig.Flush().ok());
    ChecksumRig<Stack> reopened;
    reopened.script().medium = rig.script().medium;
    reopened.Open();
    EXPECT_TRUE(reopened.Holds(0, Pattern(length, 2)));
    EXPECT_TRUE(reopened.Holds(length, ConstBytes(Pattern(65536, 1)).subspan(length)));
  }
}

// ---- A medium that cannot be written.

using ReadStack = Checksum<ReadOnly<Full>>;

// Cuts `run` short at its call number `at`, opens the medium read-only and compares: with what a writable stack makes of it.
template <class Run>
void ExpectSameWhenReadOnly(Run run) {
  for (int at = 0; at < 12; ++at) {
    SCOPED_TRACE(at);
    ChecksumRig<Stack> rig;
    ASSERT_TRUE(rig.Write(0, Pattern(65536, 1)).ok());
    ASSERT_TRUE(rig.Flush().ok());
    rig.script().fail_at = static_cast<int64_t>(rig.script().calls.size()) + at;
    run(rig);
    rig.script().fail_at = -1;
    const std::vector<std::byte> medium = rig.script().medium;
    auto state = std::make_unique<ReadStack::State>();
    const ReadStack::Config config = {.stage = 262144, .below = {.below = {.size = kMedium, .script = &rig.script()}}};
    const absl::Status status = ReadStack::Open(config, *state);
    ASSERT_TRUE(status.ok()) << status.ToString();
    std::vector<std::byte> seen(131072);
    EXPECT_TRUE(ReadStack::Read(*state, 0, seen).ok());
    std::vector<std::byte> middle(8192);
    EXPECT_TRUE(ReadStack::Read(*state, 9 * 512, middle).ok()) << "from the middle of what was recovered together";
    EXPECT_TRUE(std::equal(middle.begin(), middle.end(), seen.begin() + 9 * 512));
    EXPECT_EQ(rig.script().medium, medium);
    rig.Open();
    EXPECT_TRUE(rig.Holds(0, seen));
  }
}

TEST(ChecksumTest, AReadOnlyMediumShowsWhatRecoveryWouldMakeOfIt) {
  ExpectSameWhenReadOnly([](ChecksumRig<Stack>& rig) {
    rig.Write(512, Pattern(3072, 2)).IgnoreError();
    rig.Flush().IgnoreError();
  });
  ExpectSameWhenReadOnly([](ChecksumRig<Stack>& rig) {
    rig.Write(512, Pattern(98304, 2)).IgnoreError();
    rig.Flush().IgnoreError();
  });
  ExpectSameWhenReadOnly([](ChecksumRig<Stack>& rig) { Stack::Trim(rig.state(), {512, 60000 / 512 * 512}).IgnoreError(); });
  ExpectSameWhenReadOnly([](ChecksumRig<Stack>& rig) {
    Stack::Trim(rig.state(), {512, 1024}).IgnoreError();
    rig.Flush().IgnoreError();
    Stack::Trim(rig.state(), {8192, 16384}).IgnoreError();
    rig.Write(9216, Pattern(512, 3)).IgnoreError();
    rig.Flush().IgnoreError();
  });
}

TEST(ChecksumTest, AFileOpenedReadOnlyIsFlushedWithoutEffect) {
  using Files = Checksum<FileBacked>;
  const std::string path = absl::StrCat(::testing::TempDir(), "/checksum-read-only");
  std::remove(path.c_str());
  ASSERT_TRUE(FormatStack<Files>({.below = {.path = path, .create = 4 << 20}}, IgnoreProgress).ok());
  auto state = std::make_unique<Files::State>();
  ASSERT_TRUE(Files::Open({.below = {.path = path, .read_only = true}}, *state).ok());
  EXPECT_FALSE(buse::Writable<Files>(*state));
  EXPECT_TRUE(Files::Flush(*state).ok());
  std::vector<std::byte> out(4096);
  EXPECT_TRUE(Files::Read(*state, 0, out).ok());
  std::remove(path.c_str());
}

// ---- The rest.

TEST(ChecksumTest, ExtentsAreZeroesOnlyWhereTheTableAgrees) {
  ChecksumRig<Stack> rig;
  const auto extents = [&](Range range) {
    std::string text;
    EXPECT_TRUE(Stack::Extents(rig.state(), range, [&](const Extent& extent) {
                  const char* kinds[] = {"data", "zero", "hole"};
                  absl::StrAppend(&text, extent.range.offset, "+", extent.range.length, kinds[static_cast<int>(extent.kind)],
                                  " ");
                  return true;
                }).ok());
    return text;
  };
  EXPECT_EQ(extents({512, 65536}), "512+65536hole ");
  ASSERT_TRUE(rig.Write(8192, Pattern(1024, 1)).ok());
  EXPECT_EQ(extents({0, 16384}), "0+8192hole 8192+4096data 12288+4096hole ") << "staged";
  ASSERT_TRUE(rig.Flush().ok());
  EXPECT_EQ(extents({0, 16384}), "0+8192hole 8192+1024data 9216+7168hole ");
  // A loss below is no hole.
  std::memset(rig.data() + 8192, 0, 512);
  EXPECT_EQ(extents({0, 9216}), "0+8192hole 8192+1024data ");
}

TEST(ChecksumTest, PrefetchArrivesWhereTheDataLies) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(Stack::Prefetch(rig.state(), {512, 4096}).ok());
  EXPECT_EQ(rig.script().calls, (std::vector<Call>{{"Prefetch", {rig.geometry().data + 512, 4096}}}));
}

class ChecksumThreadsTest : public ::testing::Test {
 protected:
  using Files = Checksum<FileBacked>;

  ChecksumThreadsTest() {
    std::remove(path_.c_str());
    EXPECT_TRUE(FormatStack<Files>({.log = 65536, .below = {.path = path_, .create = 4 << 20}}, IgnoreProgress).ok());
    Open();
  }
  ~ChecksumThreadsTest() override { std::remove(path_.c_str()); }
  void Open() {
    state_ = nullptr;
    state_ = std::make_unique<Files::State>();
    EXPECT_TRUE(Files::Open({.stage = 32768, .table_cache = 8192, .below = {.path = path_}}, *state_).ok());
  }

  const std::string path_ = absl::StrCat(::testing::TempDir(), "/checksum-threads");
  std::unique_ptr<Files::State> state_;
};

// Stages of four pages each, so that the threads wait for each other's commits.
TEST_F(ChecksumThreadsTest, ManyWritersFillTheStage) {
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 40; ++i) {
        EXPECT_TRUE(Files::Write(*state_, (t * 40 + i) * 12288, Pattern(12288, t * 40 + i)).ok());
        if (i % 10 == 9) {
          EXPECT_TRUE(Files::Flush(*state_).ok());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Open();
  for (uint64_t i = 0; i < 160; ++i) {
    std::vector<std::byte> out(12288);
    ASSERT_TRUE(Files::Read(*state_, i * 12288, out).ok());
    EXPECT_EQ(out, Pattern(12288, i)) << i;
  }
}

// Each block is always one that somebody wrote, whole, and never looks damaged; and no reader sees an older one after a newer.
TEST_F(ChecksumThreadsTest, ReadersOfWhatIsBeingWrittenSeeNoDamage) {
  constexpr uint64_t kBlocks = 64;
  std::atomic<bool> done = false;
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&] {
      std::vector<uint8_t> newest(kBlocks);
      while (!done) {
        std::vector<std::byte> out(kBlocks * 512);
        const absl::Status status = Files::Read(*state_, 0, out);
        ASSERT_TRUE(status.ok()) << status.ToString();
        for (uint64_t b = 0; b < kBlocks; ++b) {
          const std::byte* block = out.data() + b * 512;
          ASSERT_EQ(std::memcmp(block, block + 1, 511), 0) << b;
          ASSERT_GE(std::to_integer<uint8_t>(*block), newest[b]) << b;
          newest[b] = std::to_integer<uint8_t>(*block);
        }
      }
    });
  }
  for (int value = 1; value < 200; ++value) {
    for (uint64_t b = 0; b < kBlocks; b += 4) {
      const std::vector<std::byte> bytes(2048, static_cast<std::byte>(value));
      ASSERT_TRUE(Files::Write(*state_, b * 512, bytes).ok());
    }
    if (value % 3 == 0) {
      ASSERT_TRUE(Files::Flush(*state_).ok());
    }
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
}

}  // namespace
}  // namespace buse::testing
